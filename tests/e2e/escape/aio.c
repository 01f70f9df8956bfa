/* Tries: takes of the contexts for asynchronous I/O, of which the whole machine has a number
 * Must:  ENOSYS
 * See:   io_setup(2); proc_sys_fs(5), aio-max-nr */
#include "attempt.h"

int main(void)
{
    unsigned long context = 0;
    attempt("io_setup", syscall(SYS_io_setup, 1, &context));
    reached("one of them");
}
