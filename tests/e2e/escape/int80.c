/* Tries: calls by the 32-bit entry, where the numbers mean other calls
 * Must:  SIGSYS SIGSEGV nothing
 * See:   seccomp(2): a filter has to check the architecture */
#include "attempt.h"

#include <signal.h>
#include <sys/wait.h>

int main(void)
{
    pid_t child = fork();
    int status;
    if (child == 0) {
        long result;
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory");
        _exit(result == getpid() ? 0 : 1);
    }
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status))
        stopped(WTERMSIG(status) == SIGSYS ? "SIGSYS" : "SIGSEGV", "int 0x80");
    if (WEXITSTATUS(status) != 0)
        stopped("nothing", "20 is not getpid here");
    reached("getpid of i386");
}
