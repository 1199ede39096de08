/* What a program needs from the machine that it runs on. */
#ifndef HOST_H
#define HOST_H

#include <stddef.h>

size_t host_read(void *data, size_t bytes);        /* from the standard input; less at its end */
void host_write(const void *data, size_t bytes);   /* to the standard output */
_Noreturn void host_fail(const char *text);        /* text to the standard error, then exit code 1 */
void *host_memory(size_t bytes);                   /* memory that is never freed, of any alignment */

#endif
