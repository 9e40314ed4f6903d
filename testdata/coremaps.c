/*
 * Maps argv[1] MiB that it writes to in 17 places, 5 times argv[2] GiB that it
 * does not touch, and argv[3] pages that are a mapping each; prints "ready", and
 * waits for the end of its input.
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096

static char *map(size_t size, int prot)
{
	char *p = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		err(1, "mmap");
	return p;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		errx(2, "usage: coremaps MEBIBYTES GIBIBYTES PAGES");
	size_t size = (size_t)atol(argv[1]) << 20, reserved = (size_t)atol(argv[2]) << 30;
	long pages = atol(argv[3]);
	char *p = map(size, PROT_READ | PROT_WRITE);
	for (int i = 0; i < 17; i++)
		strcpy(p + size / 17 * i, "needle in a haystack");
	for (int i = 0; i < 5 && reserved; i++)
		map(reserved, i % 2 ? PROT_READ | PROT_WRITE : PROT_NONE);
	if (pages)
		p = map(pages * PAGE, PROT_READ);
	/* Neighbours of equal permissions would be one mapping. */
	for (long i = 0; i < pages; i += 2)
		if (mprotect(p + i * PAGE, PAGE, PROT_READ | PROT_WRITE) < 0)
			err(1, "mprotect");
	puts("ready");
	fflush(stdout);
	char c;
	while (read(0, &c, 1) > 0)
		;
	return 0;
}
