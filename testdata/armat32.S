/* Asks the CPU itself what addresses translate to, as armat.S does on AArch64. It
   runs in Hyp mode with the MMU off, so that nothing needs to be mapped, and sets
   up and asks the PL1&0 regime. A debugger stops it at two places, and gives it in
   registers

   at _start and at done:  r0 SCTLR, r1 TTBCR, r2 DACR, r4 and r5 TTBR0, r6 and r7 TTBR1
   at ready:               r8 addresses, r9 where answers go, r12 how many, not 0

   At done there are four answers to each address, PAR after ATS12NSOPR, ATS12NSOPW,
   ATS12NSOUR and ATS12NSOUW, 8 bytes each. */

	.syntax	unified
	.arch	armv7ve
	.arm
	.global	_start, ready, done

	.macro	ask op
	mcr	p15, 0, r3, c7, c8, \op
	isb
	mrrc	p15, 0, r10, r11, c7	@ PAR
	strd	r10, r11, [r9], #8
	.endm

_start:
setup:
	mcrr	p15, 0, r4, r5, c2	@ TTBR0
	mcrr	p15, 1, r6, r7, c2	@ TTBR1
	mcr	p15, 0, r1, c2, c0, 2	@ TTBCR
	mcr	p15, 0, r2, c3, c0, 0	@ DACR
	mcr	p15, 0, r0, c1, c0, 0	@ SCTLR
	isb
	mcr	p15, 4, r0, c8, c7, 4	@ TLBIALLNSNH
	dsb
	isb
ready:
	nop
next:
	ldr	r3, [r8], #4
	ask	4
	ask	5
	ask	6
	ask	7
	subs	r12, r12, #1
	bne	next
done:
	b	setup
