/* Makes argv[1] mappings of one page each, calls stop() argv[2] times, and ends. */
#include <err.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE 4096

__attribute__((noinline)) void stop(void)
{
	__asm__ volatile("");
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: manymaps MAPPINGS STOPS");
	long n = atol(argv[1]);
	char *p = mmap(NULL, (size_t)n * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		err(1, "mmap");
	/* Neighbours of equal permissions would be one mapping. */
	for (long i = 0; i < n; i += 2)
		if (mprotect(p + i * PAGE, PAGE, PROT_READ | PROT_WRITE) < 0)
			err(1, "mprotect");
	for (long i = atol(argv[2]); i > 0; i--)
		stop();
	return 0;
}
