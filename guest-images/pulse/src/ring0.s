// All of pulse that runs in ring 0. On a KVM with page-table virtualisation every instruction here is emulated, at some
// microseconds each, and not all are known to it: so this stays small and plain. Ring 3 does everything else.
//
// Entries:  pvh_entry   32-bit, paging off, EBX = start_info      (the boot processor)
//           trampoline  16-bit, copied to 0x8000                  (the others, by INIT and SIPI)
// Both end in ring 3, with interrupts on: `ring3_main(vcpu, start_info)`.

.set TABLES,  0x200000
.set TSS_0,   0x208000
.set TSS_1,   0x20b000
.set GATES,   0x20c000
.set USER_STACK_BYTES, 32768

.set CODE64, 0x08
.set DATA,   0x10
.set USER_DATA, 0x18 | 3
.set USER_CODE, 0x20 | 3
.set CODE32, 0x28
.set TSS_SELECTOR, 0x30

// ---------------------------------------------------------------- the PVH note: where to enter, as physical address
.section .note.pvh, "a", @note
.balign 4
.long 4, 8, 18
.asciz "Xen"
.quad pvh_entry

// ---------------------------------------------------------------- tables, assembled so that no instruction fills them
.section .ring0.tables, "aw"
.balign 4096
// Identity map of 4 GiB in 2 MiB pages, open to ring 3. Accessed and dirty are preset, or the processor would write
// them, and the first rounds of a migration would see dirty page tables. `memory.rs` adds what lies above.
.global page_map
page_map:       .quad page_directories + 0x27
                .fill 511, 8, 0
.global page_directories
page_directories:
                .quad directory_0 + 0x0027, directory_0 + 0x1027, directory_0 + 0x2027, directory_0 + 0x3027
                .fill 508, 8, 0
directory_0:
.set i, 0
.rept 2048
                .quad (i << 21) | 0xe7
.set i, i + 1
.endr

.macro tss_descriptor base, limit
                .quad (\limit) | ((\base) & 0xffffff) << 16 | 0x89 << 40 | ((\base) >> 24) << 56
                .quad 0
.endm
.global gdt
gdt:            .quad 0
                .quad 0x00af9b000000ffff        // CODE64
                .quad 0x00cf93000000ffff        // DATA
                .quad 0x00cff3000000ffff        // USER_DATA
                .quad 0x00affb000000ffff        // USER_CODE
                .quad 0x00cf9b000000ffff        // CODE32
                // Only the boot processor may do port I/O from ring 3: its TSS has the bitmap. (IOPL=3 is not kept.)
                tss_descriptor TSS_0, 104 + 8192
.set i, 0
.rept 15
                tss_descriptor (TSS_1 + i * 128), 103
.set i, i + 1
.endr
gdt_end:
.balign 16
gdt_pointer:    .word gdt_end - gdt - 1
                .quad gdt
.balign 16
idt_pointer:    .word 4095
                .quad idt

.balign 4096
.global idt
idt:
.set i, 0
.rept 256
                .word (GATES + i * 16) & 0xffff, CODE64
                .word 0x8e00, (GATES + i * 16) >> 16
                .quad 0
.set i, i + 1
.endr

.macro tss cpu, bitmap
                .long 0
                .quad ring0_stacks + (\cpu + 1) * 512
                .fill 90, 1, 0
                .word \bitmap
.endm
.balign 4096
.global tss_boot
tss_boot:       tss 0, 104
                .fill 8192, 1, 0                // I/O bitmap: every port allowed
                .byte 0xff
.balign 4096
.global tss_others
tss_others:
.set i, 1
.rept 15
                .balign 128
                tss i, 104
.set i, i + 1
.endr
.balign 4096

.section .bss.ring0, "aw", @nobits
.balign 4096
ring0_stacks:   .skip 16 * 512
.balign 4096
.global user_stacks
user_stacks:    .skip 16 * USER_STACK_BYTES

.section .data.ring0, "aw"
.balign 4
.global started_vcpu
started_vcpu:   .long 0                         // number of the vCPU being started

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
.elseif v >= 0x20
                iretq                           // spurious: nothing to acknowledge
.else
                push $v
                jmp fault
.endif
.set v, v + 1
.endr

// HLT in ring 3 faults; it is the request to sleep. STI holds interrupts off until HLT has begun, so none is missed.
general_protection:
                push %rax
                mov 16(%rsp), %rax
                cmpb $0xf4, (%rax)
                jne 1f
                incq 16(%rsp)
                pop %rax
                add $8, %rsp
                sti
                hlt
                cli
                iretq
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
                mov $2, %edx
                jmp enter_ring3

// ---------------------------------------------------------------- boot
.code32
.global pvh_entry
pvh_entry:
                cli
                cld
                mov $0xff, %al                  // firmware may have left the interrupt controllers open
                out %al, $0x21
                out %al, $0xa1
                xor %ebp, %ebp
                lgdt gdt_pointer
                ljmp $CODE32, $enter_long_mode

other_entry:
                mov $DATA, %ax
                mov %ax, %ds
                mov started_vcpu, %ebp

enter_long_mode:
                mov $page_map, %eax
                mov %eax, %cr3
                mov $0x620, %eax                // PAE, OSFXSR, OSXMMEXCPT: `core` uses SSE2
                mov %eax, %cr4
                mov $0xc0000080, %ecx
                rdmsr
                or $0x100, %eax                 // EFER.LME
                wrmsr
                mov $0x80000033, %eax           // PG, NE, ET, MP, PE
                mov %eax, %cr0
                ljmp $CODE64, $long_mode

.code64
long_mode:
                mov $DATA, %ax
                mov %ax, %ds
                mov %ax, %es
                mov %ax, %ss
                lea 1(%rbp), %esp               // the stack that the TSS names too: 512 bytes each
                shl $9, %esp
                add $ring0_stacks, %esp
                mov %ebx, %r8d                  // start_info; CPUID clobbers EBX
                lidt idt_pointer
                mov %ebp, %eax
                shl $4, %eax
                add $TSS_SELECTOR, %eax
                ltr %ax

                // Vector registers: all of x87, SSE, AVX and AVX-512 that this processor has.
                mov $1, %eax
                cpuid
                bt $26, %ecx                    // XSAVE
                jnc 1f
                mov %cr4, %rax
                or $0x40000, %eax               // OSXSAVE
                mov %rax, %cr4
                mov $0xd, %eax
                xor %ecx, %ecx
                cpuid
                and $0xe7, %eax
                xor %edx, %edx
                xor %ecx, %ecx
                xsetbv
1:
                test %ebp, %ebp
                jnz 2f
                // kvmclock, whose page tells the TSC's frequency: MSR 0x4b564d01, if the signature is "KVMK…" and bit 3.
                mov $0x40000000, %eax
                cpuid
                cmp $0x4b4d564b, %ebx
                jne 2f
                mov $0x40000001, %eax
                cpuid
                bt $3, %eax
                jnc 2f
                mov $0x4b564d01, %ecx
                mov $kvmclock, %eax
                or $1, %eax
                xor %edx, %edx
                wrmsr
2:
                mov %ebp, %edi
                mov %r8d, %esi
                mov $ring3_main, %ecx
                mov $0x202, %edx                // interrupts on

// EDI = vCPU, RSI = second argument, ECX = function, EDX = flags. The function does not return, and its stack is new.
enter_ring3:
                mov %edi, %eax
                inc %eax
                imul $USER_STACK_BYTES, %eax, %eax
                add $user_stacks, %eax
                sub $8, %eax                    // as after a call: 16-byte aligned + 8
                push $USER_DATA
                push %rax
                push %rdx
                push $USER_CODE
                push %rcx
                mov $USER_DATA, %eax
                mov %eax, %ds
                mov %eax, %es
                iretq

// ---------------------------------------------------------------- other processors start here, in real mode
.global trampoline, trampoline_end
.code16
trampoline:
                cli
                xor %ax, %ax
                mov %ax, %ds
                lgdtl 0x8000 + (1f - trampoline)
                mov %cr0, %eax
                or $1, %al
                mov %eax, %cr0
                ljmpl $CODE32, $other_entry
.balign 4
1:              .word gdt_end - gdt - 1
                .long gdt
trampoline_end:
.code64
