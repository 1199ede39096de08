/* The functions of the models of a program; the last entry has no name. Include it after the header of a model. */
struct model {
    const char *name;
    size_t one_thread; /* NAME_CONTEXT_BYTES */
    size_t (*context_bytes)(const sbnn_options *);
    int (*init)(void *, size_t, const sbnn_options *);
    int (*run)(void *, const sbnn_input *, const sbnn_output *);
    void (*close)(void *);
    const sbnn_tensor *(*inputs)(size_t *);
    const sbnn_tensor *(*outputs)(size_t *);
    const char *(*last_error)(const void *);
    const char *(*version)(void);
};

extern const struct model models[];
