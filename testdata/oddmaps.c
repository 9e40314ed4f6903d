/* Makes mappings of every odd kind in the folder argv[1], says "ready", and
   waits for its standard input to end. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096

static void *map(int prot, int flags, int fd, off_t offset)
{
	void *p = mmap(NULL, PAGE, prot, flags, fd, offset);
	if (p == MAP_FAILED)
		err(1, "mmap");
	return p;
}

static int file(const char *dir, const char *name, off_t size)
{
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || ftruncate(fd, size) < 0)
		err(1, "%s", path);
	return fd;
}

void ready(void)
{
	puts("ready");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		errx(2, "usage: oddmaps FOLDER");
	const char *dir = argv[1];
	const int anon = MAP_PRIVATE | MAP_ANONYMOUS;

	/* permissions */
	map(PROT_NONE, anon, -1, 0);
	map(PROT_WRITE, anon, -1, 0);
	map(PROT_EXEC, anon, -1, 0);
	map(PROT_READ | PROT_WRITE | PROT_EXEC, anon, -1, 0);
	map(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	/* a guard between two pages */
	char *run = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, anon, -1, 0);
	if (run == MAP_FAILED || mprotect(run + PAGE, PAGE, PROT_NONE) < 0)
		err(1, "guard");
	strcpy(run, "before the guard");
	strcpy(run + 2 * PAGE, "behind the guard");

	/* files and memory without a name in the folder */
	int mem = memfd_create("odd memfd", 0);
	if (mem < 0 || ftruncate(mem, PAGE) < 0)
		err(1, "memfd_create");
	map(PROT_READ | PROT_WRITE, MAP_SHARED, mem, 0);

	static const char *const names[] = {
		" spaces  at both ends ",
		"new\nline",
		"invalid \xff\xfe utf-8",
		"escape \x1b[31mred\x1b[0m",
		"real (deleted)",
		"[heap]",
		"[stack]",
		"tab\there",
		"back\\slash \\012",
		"\xc3\xa9t\xc3\xa9",
	};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		int fd = file(dir, names[i], PAGE);
		map(PROT_READ, MAP_PRIVATE, fd, 0);
		close(fd);
	}

	int gone = file(dir, "gone", PAGE);
	map(PROT_READ, MAP_SHARED, gone, 0);
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s/gone", dir);
	unlink(path);

	const off_t far = 5LL << 30;
	map(PROT_READ, MAP_PRIVATE, file(dir, "far", far + PAGE), far);

	ready();
	char c;
	while (read(0, &c, 1) > 0)
		;
	return 0;
}
