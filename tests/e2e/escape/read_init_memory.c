/* Tries: reads the memory of the job's init
 * Must:  EPERM
 * See:   process_vm_readv(2) */
#include "attempt.h"

#include <sys/uio.h>

int main(void)
{
    char byte;
    struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
    past_permission("process_vm_readv", process_vm_readv(1, &here, 1, &there, 1, 0), EFAULT);
}
