/*
 * Fills argv[1] MiB of private anonymous memory with random numbers, the last
 * of which is NEEDLE, prints where they are, and waits for the end of its input.
 */
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define NEEDLE 0x1f2e3d4c5b6a7988

int main(int argc, char **argv)
{
	if (argc != 2)
		errx(2, "usage: bigmem MEBIBYTES");
	size_t n = (size_t)atol(argv[1]) << 20;
	uint64_t *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		err(1, "mmap");
	size_t words = n / sizeof *p;
	uint64_t x = 1;
	for (size_t i = 0; i < words; i++) {
		/* xorshift64, Marsaglia 2003 */
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = x;
	}
	p[words - 1] = NEEDLE;
	printf("%p\n", (void *)p);
	fflush(stdout);
	char c;
	while (read(0, &c, 1) > 0)
		;
	return 0;
}
