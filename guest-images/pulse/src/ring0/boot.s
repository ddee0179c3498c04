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
                mov $0x3202, %edx               // interrupts on, IOPL=3

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
