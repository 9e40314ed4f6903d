/* A small program to look around in: a secret in the heap, a global, a loop. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int counter = 0x1337;
char *secret;

void checkpoint(int round)
{
	counter += round;
}

int main(void)
{
	secret = malloc(64);
	strcpy(secret, "flag{maps are true}");
	for (int i = 0; i < 3; i++)
		checkpoint(i);
	/* called from the debugger by name only; here so that it is linked in */
	if (counter == 0)
		mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	printf("counter is %d\n", counter);
	free(secret);
	return 0;
}
