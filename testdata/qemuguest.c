/* Makes mappings of every kind that QEMU's user mode treats in a way of its
   own, prints its own map, and calls ready. The last of them is made by mmap(2),
   since that is when QEMU writes its page table to its log. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096

char needle[PAGE] = "a needle in the data";
char zeros[5 * PAGE];

static char *map(size_t pages, int prot, int flags, int fd)
{
	void *p = mmap(NULL, pages * PAGE, prot, flags, fd, 0);
	if (p == MAP_FAILED)
		err(1, "mmap");
	return p;
}

static void protect(char *p, size_t pages, int prot)
{
	if (mprotect(p, pages * PAGE, prot) < 0)
		err(1, "mprotect");
}

static pthread_barrier_t both;

static void *thread(void *arg)
{
	void *block = malloc(1000); /* an arena of its own */
	pthread_barrier_wait(&both);
	pause();
	free(block);
	return arg;
}

/* After the first time this needs no memory that is not there. */
static void print_map(void)
{
	char line[512];
	FILE *f = fopen("/proc/self/maps", "r");
	while (f && fgets(line, sizeof line, f))
		fputs(line, stdout);
	if (f)
		fclose(f);
	puts("end of map");
	fflush(stdout);
}

void ready(void) {}

int main(int argc, char **argv)
{
	const int anon = MAP_PRIVATE | MAP_ANONYMOUS;

	setvbuf(stdout, malloc(1 << 16), _IOFBF, 1 << 16);
	print_map();

	map(1, PROT_NONE, anon, -1);
	map(2, PROT_WRITE, anon, -1);
	map(2, PROT_EXEC, anon, -1);
	map(1, PROT_READ, anon, -1);
	map(3, PROT_READ | PROT_WRITE | PROT_EXEC, anon, -1);
	map(2, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	map(5, PROT_READ | PROT_WRITE, anon | MAP_NORESERVE, -1);

	/* a guard, and a hole */
	char *run = map(9, PROT_READ | PROT_WRITE, anon, -1);
	protect(run + 2 * PAGE, 1, PROT_NONE);
	protect(run + 4 * PAGE, 1, PROT_READ);
	if (munmap(run + 6 * PAGE, PAGE) < 0)
		err(1, "munmap");
	strcpy(run + 5 * PAGE, "a needle in anonymous memory");

	/* a file; the program itself, as data; a file that has no name any more */
	int exe = open(argv[0], O_RDONLY);
	if (exe < 0)
		err(1, "%s", argv[0]);
	map(2, PROT_READ, MAP_PRIVATE, exe);
	map(1, PROT_READ | PROT_WRITE, MAP_PRIVATE, exe);
	char name[] = "/tmp/qemuguest-XXXXXX";
	int gone = mkstemp(name);
	if (gone < 0 || unlink(name) < 0 || ftruncate(gone, 4 * PAGE) < 0)
		err(1, "%s", name);
	map(4, PROT_READ | PROT_WRITE, MAP_SHARED, gone);

	sbrk(3 * PAGE); /* newer QEMUs do not always leave room for it */
	if (malloc(300000) == NULL)
		err(1, "malloc");
	if (argc > 1 && strcmp(argv[1], "thread") == 0) {
		pthread_t t;
		pthread_barrier_init(&both, NULL, 2);
		if (pthread_create(&t, NULL, thread, NULL) != 0)
			errx(1, "pthread_create");
		pthread_barrier_wait(&both);
	}
	map(1, PROT_READ | PROT_WRITE, anon, -1);
	print_map();
	ready();
	return 0;
}
