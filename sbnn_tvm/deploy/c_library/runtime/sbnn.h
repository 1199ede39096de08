/* Types that all models share. A program may include the headers of several models. */
#ifndef SBNN_H
#define SBNN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What functions return: 0, or one of these codes. */
enum {
    SBNN_OK = 0,
    SBNN_ERROR_NULL = 1,    /* a pointer that must not be NULL is NULL */
    SBNN_ERROR_MEMORY = 2,  /* the memory for the context is too small */
    SBNN_ERROR_CONTEXT = 3, /* the memory holds no context of this model: call NAME_init first */
    SBNN_ERROR_SIZE = 4,    /* the bytes of an input or output differ from those of the model */
    SBNN_ERROR_OPTIONS = 5, /* an option has a value that is not allowed */
    SBNN_ERROR_CPU = 6,     /* this CPU lacks an instruction that the library needs */
    SBNN_ERROR_THREADS = 7, /* threads are not available here, or cannot be started */
    SBNN_ERROR_KERNEL = 8,  /* a kernel failed; this is a defect of the library */
    SBNN_ERROR_OVERLAP = 9, /* an output overlaps an input, another output, or the context */
    SBNN_ERROR_BUSY = 10    /* another call is using the context */
};

/* Types of the elements of tensors. */
typedef enum {
    SBNN_BOOL, /* one byte, 0 or 1 */
    SBNN_INT8,
    SBNN_INT16,
    SBNN_INT32,
    SBNN_INT64,
    SBNN_UINT8,
    SBNN_UINT16,
    SBNN_UINT32,
    SBNN_UINT64,
    SBNN_FLOAT16, /* IEEE 754 binary16 */
    SBNN_FLOAT32,
    SBNN_FLOAT64
} sbnn_type;

/* An input or output of a model. Elements are in C order: the last extent varies fastest. */
typedef struct {
    const char *name;     /* its name in the ONNX model, UTF-8 */
    sbnn_type type;       /* type of its elements */
    size_t dimensions;    /* number of extents */
    const int64_t *shape; /* the extents, batch included */
    size_t bytes;         /* its size in memory */
} sbnn_tensor;

/* The caller's memory with an input. It is only read. No alignment is needed; 64 bytes save a copy. */
typedef struct {
    const void *data;
    size_t bytes;
} sbnn_input;

/* The caller's memory for an output. No alignment is needed; 64 bytes save a copy. */
typedef struct {
    void *data;
    size_t bytes;
} sbnn_output;

/* Options of NAME_init. Set all fields to 0 for the defaults. */
typedef struct {
    size_t threads; /* threads that share the work of a layer, the caller's included, at most 256; 0 means 1 */
} sbnn_options;

#ifdef __cplusplus
}
#endif

#endif
