// C++17 for models: contexts that close themselves, tensors from containers, errors as exceptions. Header only.
//
//     #include "digits.h"
//     #include "sbnn.hpp"
//
//     sbnn::model digits(SBNN_MODEL(digits));           // sbnn::model(SBNN_MODEL(digits), 4) has four threads
//     std::vector<float> image(256), logits(10);
//     digits.run({image}, {logits});                    // throws sbnn::error
//     int code = digits.try_run({image}, {logits});     // returns SBNN_OK or a code, and never throws
//
// A model is one context: use it in one thread at a time. Element types and sizes of the containers are checked.
#ifndef SBNN_HPP
#define SBNN_HPP

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

// The functions of a model whose header has been included.
#define SBNN_MODEL(NAME)                                                                                        \
    ::sbnn::functions                                                                                           \
    {                                                                                                           \
        NAME##_context_bytes, NAME##_init, NAME##_run, NAME##_close, NAME##_inputs, NAME##_outputs,             \
            NAME##_last_error, NAME##_version                                                                   \
    }

namespace sbnn {

struct functions {
    std::size_t (*context_bytes)(const sbnn_options *);
    int (*init)(void *, std::size_t, const sbnn_options *);
    int (*run)(void *, const sbnn_input *, const sbnn_output *);
    void (*close)(void *);
    const sbnn_tensor *(*inputs)(std::size_t *);
    const sbnn_tensor *(*outputs)(std::size_t *);
    const char *(*last_error)(const void *);
    const char *(*version)();
};

class error : public std::runtime_error {
public:
    error(int code, const std::string &text) : std::runtime_error(text), code_(code) {}
    int code() const noexcept { return code_; }

private:
    int code_;
};

namespace detail {

template <class T>
constexpr std::optional<sbnn_type> type_of()
{
    using U = std::remove_cv_t<T>;
    if constexpr (std::is_same_v<U, bool>)
        return SBNN_BOOL;
    else if constexpr (std::is_same_v<U, float>)
        return SBNN_FLOAT32;
    else if constexpr (std::is_same_v<U, double>)
        return SBNN_FLOAT64;
    else if constexpr (std::is_integral_v<U> && std::is_signed_v<U>)
        return sizeof(U) == 1 ? SBNN_INT8 : sizeof(U) == 2 ? SBNN_INT16 : sizeof(U) == 4 ? SBNN_INT32 : SBNN_INT64;
    else if constexpr (std::is_integral_v<U>)
        return sizeof(U) == 1 ? SBNN_UINT8 : sizeof(U) == 2 ? SBNN_UINT16 : sizeof(U) == 4 ? SBNN_UINT32 : SBNN_UINT64;
    else
        return std::nullopt; // any other type, such as a 16-bit float: only its size is checked
}

} // namespace detail

// Elements in memory of the caller: of std::vector, std::array, std::span, a C array, or a pointer and a number.
template <bool Const>
class view {
public:
    using pointer = std::conditional_t<Const, const void *, void *>;

    template <class Container, class Element = std::remove_pointer_t<decltype(std::data(std::declval<Container &>()))>,
              class = std::enable_if_t<Const || !std::is_const_v<Element>>>
    view(Container &container) : view(std::data(container), std::size(container))
    {
    }

    template <class T, class = std::enable_if_t<!std::is_void_v<T> && (Const || !std::is_const_v<T>)>>
    view(T *data, std::size_t count) : data_(data), bytes_(count * sizeof(T)), type_(detail::type_of<T>())
    {
    }

    // Bytes of any type.
    static view bytes(pointer data, std::size_t bytes)
    {
        view result(static_cast<std::conditional_t<Const, const char *, char *>>(data), bytes);
        result.type_.reset();
        return result;
    }

    pointer data() const noexcept { return data_; }
    std::size_t size_bytes() const noexcept { return bytes_; }
    bool fits(sbnn_type type) const noexcept { return !type_ || *type_ == type; }

private:
    pointer data_;
    std::size_t bytes_;
    std::optional<sbnn_type> type_;
};

using input = view<true>;
using output = view<false>;

// A model, ready to run. It can be moved.
class model {
public:
    explicit model(const functions &functions, std::size_t threads = 1) : functions_(functions)
    {
        int code = start(threads);
        if (code != SBNN_OK)
            throw error(code, context_ ? functions_.last_error(context_.get()) : "no memory for the context");
    }

    // Without exceptions: nothing, and a code, if it fails.
    static std::optional<model> create(const functions &functions, std::size_t threads, int &code) noexcept
    {
        model result(functions, nullptr);
        code = result.start(threads);
        if (code != SBNN_OK)
            return std::nullopt;
        return std::optional<model>(std::move(result));
    }

    model(model &&other) noexcept : functions_(other.functions_), context_(std::move(other.context_)) {}

    model &operator=(model &&other) noexcept
    {
        if (this != &other) {
            functions_.close(context_.get());
            functions_ = other.functions_;
            context_ = std::move(other.context_);
        }
        return *this;
    }

    ~model() { functions_.close(context_.get()); }

    void run(std::initializer_list<input> inputs, std::initializer_list<output> outputs)
    {
        int code = try_run(inputs, outputs);
        if (code != SBNN_OK)
            throw error(code, mismatch_ ? mismatch_ : last_error());
    }

    int try_run(std::initializer_list<input> inputs, std::initializer_list<output> outputs) noexcept
    {
        std::size_t input_count, output_count;
        const sbnn_tensor *input_tensors = functions_.inputs(&input_count);
        const sbnn_tensor *output_tensors = functions_.outputs(&output_count);
        mismatch_ = nullptr;
        if (inputs.size() != input_count || outputs.size() != output_count) {
            mismatch_ = "the model has another number of inputs or outputs";
            return SBNN_ERROR_SIZE;
        }
        if (input_count > most_ || output_count > most_) {
            mismatch_ = "the C++ wrapper takes at most 64 inputs and 64 outputs";
            return SBNN_ERROR_SIZE;
        }
        sbnn_input input_array[most_];
        sbnn_output output_array[most_];
        std::size_t index = 0;
        for (const input &each : inputs) {
            if (!each.fits(input_tensors[index].type))
                mismatch_ = "an input has elements of another type than the model declares";
            input_array[index++] = {each.data(), each.size_bytes()};
        }
        index = 0;
        for (const output &each : outputs) {
            if (!each.fits(output_tensors[index].type))
                mismatch_ = "an output has elements of another type than the model declares";
            output_array[index++] = {each.data(), each.size_bytes()};
        }
        return mismatch_ ? static_cast<int>(SBNN_ERROR_SIZE) : functions_.run(context_.get(), input_array, output_array);
    }

    const char *last_error() const noexcept { return mismatch_ ? mismatch_ : functions_.last_error(context_.get()); }
    const char *version() const noexcept { return functions_.version(); }

private:
    static constexpr std::size_t most_ = 64;

    model(const functions &functions, std::nullptr_t) noexcept : functions_(functions) {}

    int start(std::size_t threads) noexcept
    {
        sbnn_options options = {};
        options.threads = threads;
        std::size_t bytes = functions_.context_bytes(&options);
        if (bytes == 0)
            return SBNN_ERROR_OPTIONS;
        context_.reset(new (std::nothrow) unsigned char[bytes]);
        return context_ ? functions_.init(context_.get(), bytes, &options) : static_cast<int>(SBNN_ERROR_MEMORY);
    }

    functions functions_;
    std::unique_ptr<unsigned char[]> context_;
    const char *mismatch_ = nullptr;
};

} // namespace sbnn

#endif
