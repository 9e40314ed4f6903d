/* Preloaded into GDB: the extended state of registers cannot be set, as GDB
 * before 14 fares on a CPU with AMX, whose state is larger than it knows. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define NT_X86_XSTATE 0x202

__attribute__((constructor)) static void not_into_the_debuggee(void)
{
	unsetenv("LD_PRELOAD");
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list ap;
	va_start(ap, request);
	pid_t pid = va_arg(ap, pid_t);
	void *addr = va_arg(ap, void *);
	void *data = va_arg(ap, void *);
	va_end(ap);
	if (request == PTRACE_SETREGSET && (long)addr == NT_X86_XSTATE) {
		errno = EFAULT;
		return -1;
	}
	/* The kernel stores what is peeked at, where libc returns it (ptrace(2)). */
	long word = 0;
	int peek = request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER;
	long r = syscall(SYS_ptrace, request, pid, addr, peek ? &word : data);
	if (peek && r == 0) {
		errno = 0;
		return word;
	}
	return r;
}
