#ifndef STACK_H
#define STACK_H

#include <stddef.h>

/* The most bytes of the stack that were in use at a time since the start of the program. */
size_t stack_used(void);

#endif
