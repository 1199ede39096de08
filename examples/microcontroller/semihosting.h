/* Output and exit through the debugger or the emulator (Arm semihosting), so that no driver of a board is needed.
   On a board without a debugger, write these functions for its serial port instead. */

#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

#include <stddef.h>

/* Write bytes to the standard output of the host. */
void host_write(const void *data, size_t bytes);

/* End the program. The emulator ends with this exit code. */
_Noreturn void host_exit(int code);

/* Write text, or a number, to the standard output of the host. */
void print(const char *text);
void print_number(unsigned long number);

#endif
