/* Frames from a raw file: the pixels of one after the other, without a header. */
#ifndef FRAME_FILE_H
#define FRAME_FILE_H

#include <stddef.h>
#include <stdio.h>

struct frame_file {
    FILE *file;
    size_t pixels;        /* of a frame */
    int uint8;            /* pixels are bytes, otherwise float32 */
    float scale, offset;  /* of a byte p, the model sees p * scale + offset */
    unsigned char *bytes; /* of the last frame, if it has bytes */
};

/* Opens a file; type is "float32", or "uint8,SCALE,OFFSET". Returns 0, or prints why not. */
int frame_file_open(struct frame_file *frames, const char *path, const char *type, size_t pixels);

/* Reads the next frame; returns 1, 0 at the end of the file, or -1 after printing that it is cut short. */
int frame_file_next(struct frame_file *frames, float *pixels);

void frame_file_close(struct frame_file *frames);

#endif
