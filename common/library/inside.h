/*
 * In the library the compiler reads this before a step's cpu.c: memory that a step takes is a piece of the caller's workspace,
 * which call.c has found to be large enough, and no step can end the process. No step includes this.
 */
#ifndef INSIDE_H
#define INSIDE_H

#include <stdlib.h>

#include "machine.h"

void *inside_take(size_t bytes); /* on a multiple of 64; NULL, and the call fails, where nothing is left */

#define malloc(bytes) inside_take(bytes)
#define aligned_alloc(line, bytes) inside_take(bytes)
#define free(pointer) ((void)(pointer))
#define fatal(...) return

#endif
