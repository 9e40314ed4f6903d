/* One kind of memory that a look from outside could change: "kinds KIND [FILE]".
   Prints "pid N" where that is not its own, the name and the address of each piece,
   then "ready", and waits for the end of its input. A line "drop" before that takes
   piece "second" away. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096L
#define HUGE (2L << 20)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)
#define MADV_PAGEOUT_ 21
#define UFFD_FEATURE_WP_UNPOPULATED_ (1 << 13)

static char *second;
static size_t second_size;

static char *map_at(const char *name, void *at, size_t size, int flags, int fd) {
	char *p = mmap(at, size, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (p == MAP_FAILED) {
		printf("missing %s\n", name);
		return NULL;
	}
	printf("%s %p\n", name, (void *)p);
	return p;
}

static char *map(const char *name, size_t size, int flags, int fd) {
	return map_at(name, NULL, size, flags, fd);
}

/* At a multiple of the size of huge pages. */
static char *map_huge(const char *name, size_t size) {
	char *p = mmap(NULL, size + HUGE, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);
	p = (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
	p = map_at(name, p, size, ANON | MAP_FIXED, -1);
	madvise(p, size, MADV_HUGEPAGE);
	return p;
}

/* Numbers that do not compress, and a needle in each 64th page. */
static void fill(char *p, size_t size, uint64_t x) {
	for (size_t i = 0; i < size; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(p + i, &x, 8);
	}
	for (size_t i = 0; i < size; i += 64 * PAGE) {
		memcpy(p + i, "QZQZ", 4);
		memcpy(p + i + 4, "QZ#!", 4);
	}
}

static void ready(void) {
	char line[5];

	/* What comes after "ready" must not need a page more. */
	if (read(0, line, 0) != 0)
		exit(3);
	printf("ready\n");
	fflush(stdout);
	while (read(0, line, 5) == 5)
		if (memcmp(line, "drop\n", 5) == 0) {
			munmap(second, second_size);
			if (write(1, "dropped\n", 8) != 8)
				exit(3);
		}
	exit(0);
}

/* The child goes on, and is what is looked at. */
static void fork_on(void) {
	fflush(stdout);
	pid_t child = fork();
	if (child < 0)
		err(3, "fork");
	if (child > 0) {
		waitpid(child, NULL, 0);
		exit(0);
	}
	prctl(PR_SET_PDEATHSIG, 9);
	printf("pid %d\n", getpid());
}

static int userfaults(char *p, size_t size, int mode, int features) {
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	struct uffdio_register reg = {.range = {(uintptr_t)p, size}, .mode = mode};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) != 0 || ioctl(fd, UFFDIO_REGISTER, &reg) != 0) {
		printf("missing userfaultfd\n");
		return -1;
	}
	return fd;
}

int main(int argc, char **argv) {
	const char *kind = argc > 1 ? argv[1] : "";
	volatile char sum = 0;
	size_t size = 64 << 20;
	char *p;
	int fd;

	if (strcmp(kind, "fork") == 0) {
		p = map("first", size, ANON, -1);
		madvise(p, size, MADV_NOHUGEPAGE);
		fill(p, size, 1);
		fork_on();
	} else if (strcmp(kind, "forkhuge") == 0) {
		fill(map_huge("first", size), size, 2);
		fork_on();
	} else if (strcmp(kind, "forkhalf") == 0) {
		/* Each has one half of huge pages, which nobody else maps. */
		p = map_huge("first", HUGE);
		fill(p, HUGE, 3);
		int gone[2];
		if (pipe(gone) != 0)
			err(3, "pipe");
		fflush(stdout);
		pid_t child = fork();
		if (child > 0) {
			munmap(p + HUGE / 2, HUGE / 2);
			close(gone[0]);
			close(gone[1]);
			waitpid(child, NULL, 0);
			return 0;
		}
		prctl(PR_SET_PDEATHSIG, 9);
		munmap(p, HUGE / 2);
		close(gone[1]);
		char c;
		while (read(gone[0], &c, 1) > 0)
			;
		printf("pid %d\nfirst %p\n", getpid(), (void *)(p + HUGE / 2));
	} else if (strcmp(kind, "spliced") == 0) {
		/* Shared once, now its own again, and in a pipe. */
		p = map("first", 16 * PAGE, ANON, -1);
		madvise(p, 16 * PAGE, MADV_NOHUGEPAGE);
		fill(p, 16 * PAGE, 4);
		fflush(stdout);
		pid_t child = fork();
		if (child == 0)
			_exit(0);
		waitpid(child, NULL, 0);
		int to[2];
		struct iovec v = {p, 16 * PAGE};
		if (pipe(to) != 0 || vmsplice(to[1], &v, 1, 0) != 16 * PAGE)
			err(3, "vmsplice");
	} else if (strcmp(kind, "ksm") == 0) {
		size = second_size = 4 << 20;
		p = map("first", size, ANON, -1);
		fill(p, size, 5);
		second = map("second", size, ANON, -1);
		fill(second, size, 5);
		madvise(p, size, MADV_MERGEABLE);
		madvise(second, size, MADV_MERGEABLE);
	} else if (strcmp(kind, "shared") == 0) {
		/* Written by the parent, and not touched by the child. */
		fill(map("first", size, MAP_SHARED | MAP_ANONYMOUS, -1), size, 6);
		fd = memfd_create("kinds", 0);
		if (fd < 0 || ftruncate(fd, 4 << 20) != 0)
			err(3, "memfd_create");
		fill(map("second", 4 << 20, MAP_SHARED, fd), 4 << 20, 7);
		int id = shmget(IPC_PRIVATE, 4 << 20, IPC_CREAT | 0600);
		if (id >= 0) {
			p = shmat(id, NULL, 0);
			shmctl(id, IPC_RMID, NULL);
			fill(p, 4 << 20, 8);
			printf("sysv %p\n", (void *)p);
		}
		fork_on();
	} else if (strcmp(kind, "hugetlb") == 0) {
		p = map("first", 2 * HUGE, ANON | MAP_HUGETLB, -1);
		if (p)
			fill(p, HUGE, 9);
		p = map("second", HUGE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1);
		if (p)
			fill(p, HUGE, 10);
		fork_on();
	} else if (strcmp(kind, "swap") == 0) {
		size = 16 << 20;
		p = map("first", size, ANON, -1);
		madvise(p, size, MADV_NOHUGEPAGE);
		fill(p, size, 11);
		madvise(p, size / 2, MADV_PAGEOUT_);
		if ((fd = open(argv[2], O_RDONLY)) < 0)
			err(3, "%s", argv[2]);
		p = map("file", 1 << 20, MAP_PRIVATE, fd);
		fill(p, 1 << 20, 12);
		madvise(p, 1 << 20, MADV_PAGEOUT_);
		p = map("second", 4 << 20, MAP_SHARED | MAP_ANONYMOUS, -1);
		fill(p, 4 << 20, 13);
		madvise(p, 4 << 20, MADV_PAGEOUT_);
	} else if (strcmp(kind, "uffdmissing") == 0) {
		p = map("first", 64 * PAGE, ANON, -1);
		madvise(p, 64 * PAGE, MADV_NOHUGEPAGE);
		fill(p, 8 * PAGE, 14);
		userfaults(p, 64 * PAGE, UFFDIO_REGISTER_MODE_MISSING, 0);
		p = map("second", 64 * PAGE, MAP_SHARED | MAP_ANONYMOUS, -1);
		fill(p, 8 * PAGE, 15);
		userfaults(p, 64 * PAGE, UFFDIO_REGISTER_MODE_MISSING, UFFD_FEATURE_MISSING_SHMEM);
	} else if (strcmp(kind, "uffdwp") == 0) {
		p = map("first", 64 * PAGE, ANON, -1);
		madvise(p, 64 * PAGE, MADV_NOHUGEPAGE);
		fill(p, 8 * PAGE, 16);
		fd = userfaults(p, 64 * PAGE, UFFDIO_REGISTER_MODE_WP, UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED_);
		struct uffdio_writeprotect w = {.range = {(uintptr_t)p, 32 * PAGE}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
		if (fd >= 0 && ioctl(fd, UFFDIO_WRITEPROTECT, &w) != 0)
			printf("missing write protection\n");
	} else if (strcmp(kind, "file") == 0) {
		/* Of FILE 16 pages or all, then the same again, written to; and shared. */
		if ((fd = open(argv[2], O_RDONLY)) < 0)
			err(3, "%s", argv[2]);
		size = lseek(fd, 0, SEEK_END);
		p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
		printf("first %p\n", (void *)p);
		madvise(p, size, MADV_RANDOM); /* no page but these */
		for (long i = 0; i < 16 && i * PAGE + PAGE <= (long)size; i++)
			sum += p[i * PAGE];
		p = map("second", size, MAP_PRIVATE, fd);
		madvise(p, size, MADV_RANDOM);
		p[PAGE] = 'x';
		p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
		printf("shared %p\n", (void *)p);
		madvise(p, size, MADV_RANDOM);
		sum += p[3 * PAGE];
		close(fd);
	} else {
		errx(2, "usage: kinds KIND [FILE]");
	}
	ready();
}
