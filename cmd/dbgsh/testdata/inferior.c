/* A debuggee whose first argument says what it does. */
#define _GNU_SOURCE /* MAP_FIXED_NOREPLACE */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

unsigned char big[100000];
char text[32] = "QZ before\tQZQZQZ";
int value = 0x5eedf00d;
int *pointer = &value;
int negative = -123456;

__attribute__((noinline)) void checkpoint(void)
{
	__asm__ volatile("");
}

/* Says what it reads, line by line. */
static void echo(void)
{
	char line[256];
	printf("name? ");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		printf("read <%.*s>\n", (int)strcspn(line, "\n"), line);
		fflush(stdout);
	}
	puts("end of input");
}

/* Never ends, and says once that it runs. */
static void spin(void)
{
	puts("spinning");
	fflush(stdout);
	for (;;)
		checkpoint();
}

/* Waits on its own for ever, and says so once. */
static void wait_on(void)
{
	puts("waiting");
	fflush(stdout);
	for (;;)
		sleep(1000);
}

static void size(void)
{
	struct winsize w;
	if (ioctl(0, TIOCGWINSZ, &w) < 0)
		err(1, "TIOCGWINSZ");
	printf("%d rows, %d columns\n", w.ws_row, w.ws_col);
}

/* Touches argv[2] MiB of memory, so that a search takes its time. */
static void touch(const char *mib)
{
	size_t n = (size_t)atol(mib) << 20;
	char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		err(1, "mmap");
	memset(p, 'Q', n);
	checkpoint();
}

/* Maps two pages at 0x20000000, and takes them away again. */
static void map(void)
{
	char *p = mmap((void *)0x20000000, 0x2000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (p == MAP_FAILED)
		err(1, "mmap");
	checkpoint();
	if (munmap(p, 0x2000) < 0)
		err(1, "munmap");
	checkpoint();
}

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof big; i++)
		big[i] = (unsigned char)(i * i / 7);
	checkpoint();
	const char *what = argc > 1 ? argv[1] : "";
	if (!strcmp(what, "echo"))
		echo();
	else if (!strcmp(what, "spin"))
		spin();
	else if (!strcmp(what, "wait"))
		wait_on();
	else if (!strcmp(what, "size"))
		size();
	else if (!strcmp(what, "map"))
		map();
	else if (!strcmp(what, "touch") && argc > 2)
		touch(argv[2]);
	else
		for (int i = 1; i < argc; i++)
			printf("argument %d <%s>\n", i, argv[i]);
	return 0;
}
