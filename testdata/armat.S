/* Asks the CPU itself what addresses translate to. It runs at EL2 with the MMU
   off, so that nothing needs to be mapped, and sets up and asks the EL1&0
   regime. A debugger stops it at two places, and gives it in registers

   at _start and at done:  x10 TTBR0_EL1, x11 TTBR1_EL1, x12 TCR_EL1, x13 SCTLR_EL1
   at ready:               x0 addresses, x1 where answers go, x2 how many, not 0

   At done there are four answers to each address, PAR_EL1 after AT S1E1R,
   S1E1W, S1E0R and S1E0W; or 1 where the instruction took an exception, which
   it does where a table cannot be read. */

	.global	_start, ready, done

	.macro	ask what
	at	\what, x3
	isb
	mrs	x4, par_el1
	str	x4, [x1], #8
	.endm

_start:
	mov	x4, #1 << 31		// HCR_EL2.RW: EL1 is AArch64
	msr	hcr_el2, x4
	adr	x4, vectors
	msr	vbar_el2, x4
setup:
	msr	ttbr0_el1, x10
	msr	ttbr1_el1, x11
	msr	tcr_el1, x12
	msr	sctlr_el1, x13
	isb
	tlbi	alle1
	dsb	sy
	isb
ready:
	nop
next:
	ldr	x3, [x0], #8
	ask	s1e1r
	ask	s1e1w
	ask	s1e0r
	ask	s1e0w
	subs	x2, x2, #1
	b.ne	next
done:
	b	setup

	.balign	2048
vectors:
	.skip	0x200			// then what comes from EL2 itself, with SP_EL2
	mov	x4, #1			// PAR_EL1.F
	msr	par_el1, x4
	mrs	x4, elr_el2
	add	x4, x4, #4
	msr	elr_el2, x4
	eret
