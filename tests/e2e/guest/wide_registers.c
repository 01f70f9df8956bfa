/* Preloaded into user-mode Linux. Its kernel sets the floating point registers of guest processes from a buffer of 2696
 * bytes, and where the processor has more state than that (AMX) the host's kernel takes nothing but all of it
 * (xstateregs_set in arch/x86/kernel/fpu/regset.c), so that the guest's first process dies. Here the rest is filled with
 * what the registers hold. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

static long (*next_ptrace)(int request, long pid, long place, void *data);
static unsigned char whole[1 << 16]; /* not on the stack: a kernel stack of the guest is small, and it has one thread */

__attribute__((constructor)) static void find_next(void)
{
    *(void **)&next_ptrace = dlsym(RTLD_NEXT, "ptrace");
}

static long set_registers(long pid, const struct iovec *given)
{
    struct iovec all = {whole, sizeof whole};
    if (next_ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &all) != 0)
        return -1;
    memcpy(whole, given->iov_base, given->iov_len < all.iov_len ? given->iov_len : all.iov_len);
    return next_ptrace(PTRACE_SETREGSET, pid, NT_X86_XSTATE, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    const long pid = va_arg(arguments, int);
    const long place = va_arg(arguments, long);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    if (request == PTRACE_SETREGSET && place == NT_X86_XSTATE)
        return set_registers(pid, data);
    return next_ptrace(request, pid, place, data);
}
