// All of pulse that runs in ring 0. On a KVM with page-table virtualisation every instruction here is emulated, at some
// microseconds each, and not all are known to it: so this stays small and plain. Ring 3 does everything else.
//
// Entries:  pvh_entry   32-bit, paging off, EBX = start_info      (the boot processor)
//           trampoline  16-bit, copied to 0x8000                  (the others, by INIT and SIPI)
// Both end in ring 3, with interrupts on: `ring3_main(vcpu, start_info)`.
//
// Files, assembled as one in this order: layout.s (addresses and memory), tables.s, gates.s (what interrupts do), boot.s.

.set TABLES,  0x200000
.set TSS_0,   0x208000
.set TSS_1,   0x20b000
.set GATES,   0x20c000
.set USER_STACK_BYTES, 65536

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

// ---------------------------------------------------------------- stacks, and one word
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
