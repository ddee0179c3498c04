// ---------------------------------------------------------------- interrupt gates: 16 bytes for each vector
.section .ring0.text, "ax"
.balign 4096
.global gates
gates:
.set v, 0
.rept 256
.balign 16
.if v == 13
                jmp general_protection
.elseif v == 0x24
                jmp serial_interrupt
.elseif v == 0x40
                jmp timer_interrupt
.elseif v == 0x41
                jmp device_interrupt
.elseif v >= 0x20
                iretq                           // spurious: nothing to acknowledge
.else
                push $v
                jmp fault
.endif
.set v, v + 1
.endr

// HLT in ring 3 faults; it is the request to sleep, unless the word at RDI is set by now: an interrupt that came after
// ring 3 looked would else be slept over. STI holds interrupts off until HLT has begun, so none is missed.
general_protection:
                push %rax
                mov 16(%rsp), %rax
                cmpb $0xf4, (%rax)
                jne 1f
                incq 16(%rsp)
                pop %rax
                add $8, %rsp
                cmpl $0, (%rdi)
                jne 2f
                sti
                hlt
                cli
2:              iretq
1:              pop %rax
                push $13
                jmp fault

serial_interrupt:
                push %rax
                movl $1, serial_received
                mov $0x20, %al
                out %al, $0x20
                pop %rax
                iretq

// A device has something: ring 3 looks for it between two steps.
device_interrupt:
                push %rax
                movl $1, device_interrupted
                mov $0xfee000b0, %eax
                movl $0, (%rax)
                pop %rax
                iretq

timer_interrupt:
                push %rax
                mov $0xfee000b0, %eax           // end of interrupt, at the local APIC
                movl $0, (%rax)
                pop %rax
                iretq

// Any other exception ends the guest. Its frame goes to `fault_frame`, and ring 3 reports it.
fault:
                mov %rsp, %rsi
                mov $fault_frame, %edi
                mov $7, %ecx
                cld
                rep movsq
                mov %cr2, %rax
                mov %rax, (%rdi)
                str %ax
                movzwl %ax, %edi
                sub $TSS_SELECTOR, %edi
                shr $4, %edi
                mov $ring3_fault, %ecx
                mov $0x3002, %edx
                jmp enter_ring3
