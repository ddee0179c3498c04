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
                // Port I/O from ring 3: by IOPL=3, which KVM with page-table virtualisation does not keep, and there by
                // this bitmap. QEMU's software CPU, as a host, looks into no TSS that is busy, as TR always is once KVM
                // has set it.
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
