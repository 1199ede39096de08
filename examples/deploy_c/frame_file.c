#include "frame_file.h"

#include <stdlib.h>
#include <string.h>

int frame_file_open(struct frame_file *frames, const char *path, const char *type, size_t pixels)
{
    memset(frames, 0, sizeof *frames);
    frames->pixels = pixels;
    frames->uint8 = strncmp(type, "uint8", 5) == 0;
    if (strcmp(type, "float32") != 0 && sscanf(type, "uint8,%f,%f", &frames->scale, &frames->offset) != 2) {
        fprintf(stderr, "the type of pixels is float32 or uint8,SCALE,OFFSET, but got %s\n", type);
        return -1;
    }
    frames->file = fopen(path, "rb");
    frames->bytes = malloc(pixels);
    if (frames->file == NULL || frames->bytes == NULL) {
        perror(path);
        return -1;
    }
    return 0;
}

int frame_file_next(struct frame_file *frames, float *pixels)
{
    size_t size = frames->uint8 ? 1 : sizeof *pixels, index;
    size_t bytes = fread(frames->uint8 ? (void *)frames->bytes : (void *)pixels, 1, frames->pixels * size, frames->file);
    if (bytes == 0)
        return 0;
    if (bytes < frames->pixels * size) {
        fprintf(stderr, "the last frame has %zu bytes instead of %zu\n", bytes, frames->pixels * size);
        return -1;
    }
    if (frames->uint8)
        for (index = 0; index < frames->pixels; index++)
            pixels[index] = (float)frames->bytes[index] * frames->scale + frames->offset;
    return 1;
}

void frame_file_close(struct frame_file *frames)
{
    if (frames->file != NULL)
        fclose(frames->file);
    free(frames->bytes);
}
