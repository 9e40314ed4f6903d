/* Memory of every kind that a search meets. Prints the name and the address of
   each piece, then "ready", and waits: for a line "exec" to replace itself, or
   for the end of its input to leave.
   With an argument: only that many MiB of random bytes. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096L
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

static char *map(const char *name, size_t size, int prot, int flags, int fd) {
	char *p = mmap(NULL, size, prot, flags, fd, 0);
	if (p == MAP_FAILED) {
		printf("%s 0\n", name);
		return NULL;
	}
	printf("%s %p\n", name, (void *)p);
	return p;
}

/* Written in two parts, so that it stands nowhere else in memory. */
static void needle(char *at) {
	memcpy(at, "QZQZ", 4);
	memcpy(at + 4, "QZ#!", 4);
}

static void random_bytes(char *p, size_t size) {
	uint64_t x = 88172645463325252ull;
	for (size_t i = 0; i < size; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(p + i, &x, 8);
	}
}

static int file(off_t size) {
	char name[] = "/tmp/procmem-XXXXXX";
	int fd = mkstemp(name);
	unlink(name);
	if (fd < 0 || ftruncate(fd, size) != 0)
		exit(3);
	return fd;
}

static void pieces(void) {
	char *p, buf[8];
	volatile char sum = 0;
	int fd;

	p = map("guard", 16 * PAGE, PROT_READ | PROT_WRITE, ANON, -1);
	memset(p, 'g', 16 * PAGE);
	printf("guarded %d\n", madvise(p + 3 * PAGE, 2 * PAGE, 102 /* MADV_GUARD_INSTALL */));
	needle(p + 3 * PAGE - 8);
	needle(p + 5 * PAGE);
	needle(p);
	needle(p + 16 * PAGE - 8);
	needle(p + 8 * PAGE - 3);

	p = map("adjacent", 6 * PAGE, PROT_READ | PROT_WRITE, ANON, -1);
	needle(p + 2 * PAGE - 4);
	needle(p + 4 * PAGE - 1);
	mprotect(p + 2 * PAGE, 2 * PAGE, PROT_READ);

	p = map("none", 4 * PAGE, PROT_READ | PROT_WRITE, ANON, -1);
	needle(p + PAGE);
	mprotect(p, 4 * PAGE, PROT_NONE);
	p = map("writeonly", 4 * PAGE, PROT_READ | PROT_WRITE, ANON, -1);
	needle(p + PAGE);
	mprotect(p, 4 * PAGE, PROT_WRITE);
	p = map("execonly", 4 * PAGE, PROT_READ | PROT_WRITE, ANON, -1);
	needle(p + PAGE - 2);
	mprotect(p, 4 * PAGE, PROT_EXEC);

	fd = file(PAGE + 100);
	needle(buf);
	pwrite(fd, buf, 8, PAGE + 92);
	fsync(fd); /* so that no page becomes clean while it is watched */
	map("tail", 8 * PAGE, PROT_READ, MAP_PRIVATE, fd);
	p = map("sharedtail", 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	sum += p[PAGE];
	p = map("deadtail", 8 * PAGE, PROT_READ, MAP_SHARED, fd);
	munmap(p, 2 * PAGE);

	fd = file(1 << 20);
	pwrite(fd, buf, 8, 0);
	pwrite(fd, buf, 8, 77 * PAGE - 5);
	pwrite(fd, buf, 8, (1 << 20) - 8);
	fsync(fd);
	map("file", 1 << 20, PROT_READ, MAP_SHARED, fd);
	p = map("cow", 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	needle(p + 100 * PAGE + 5);
	p[77 * PAGE - 5] = 'x';
	map("filenone", 1 << 20, PROT_NONE, MAP_PRIVATE, fd);

	fd = memfd_create("some memory", 0);
	if (ftruncate(fd, 64 * PAGE) != 0)
		exit(3);
	p = map("memfd", 64 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	needle(p + 40 * PAGE - 4);
	map("memfdagain", 64 * PAGE, PROT_READ, MAP_SHARED, fd);
	p = map("shared", 6 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	needle(p + (5 << 20) - 4);

	p = map("hugetlb", 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1);
	if (p)
		needle(p + (2 << 20) - 8);

	p = map("zeros", 16 << 20, PROT_READ | PROT_WRITE, ANON, -1);
	for (long i = 0; i < 16 << 20; i += PAGE)
		sum += p[i];

	p = map("sparse", 256L << 30, PROT_READ | PROT_WRITE, ANON, -1);
	for (long i = 0; i < 17; i++)
		needle(p + (i * 16L << 30) - (i > 0 ? i % 8 : 0));
}

int main(int argc, char **argv) {
	char line[5];

	if (argc > 1) {
		size_t size = strtoul(argv[1], NULL, 10) << 20;
		random_bytes(map("random", size, PROT_READ | PROT_WRITE, ANON, -1), size);
	} else {
		/* The kernel neither cleans nor takes away a page while others look. */
		fsync(open("/proc/self/exe", O_RDONLY));
		pieces();
		mlockall(MCL_CURRENT | MCL_ONFAULT); /* where that is allowed */
	}
	/* What comes after "ready" must not need a page more. */
	if (read(0, line, 0) != 0)
		return 3;
	printf("ready\n");
	fflush(stdout);
	if (read(0, line, 5) == 5 && memcmp(line, "exec\n", 5) == 0)
		execlp("cat", "cat", (char *)NULL);
	return 0;
}
