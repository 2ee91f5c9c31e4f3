// Memory for results that are made again and again: a freed result's memory serves the next one of its size.
//
// A fresh large array costs the system a page fault and a cleared page for every page of it, as much time as a product
// of a chain needs to fill it. One block is kept, aligned to cache lines, and freed with the recycler and the last
// array made by it. Used under the GIL only.
#pragma once

#include <memory>

#include "bindings/numpy_views.hpp"

namespace flatcore::bindings {

class Recycler {
 public:
    // A rows × cols array of uninitialised entries.
    template <class T>
    py::array_t<T> empty(Index rows, Index cols) {
        const std::size_t bytes = static_cast<std::size_t>(rows * cols) * sizeof(T);
        auto block = std::make_unique<Block>();
        block->home = shelf_;
        if (*shelf_ && (*shelf_)->size == bytes)
            block->memory = std::move(*shelf_);
        else
            block->memory = std::make_unique<Memory>(bytes);
        T* data = static_cast<T*>(block->memory->data);
        py::capsule owner(block.release(), [](void* pointer) { delete static_cast<Block*>(pointer); });
        return py::array_t<T>({rows, cols}, data, owner);
    }

 private:
    struct Memory {
        explicit Memory(std::size_t bytes) : size(bytes), data(::operator new(bytes, std::align_val_t{64})) {}
        ~Memory() { ::operator delete(data, std::align_val_t{64}); }
        Memory(const Memory&) = delete;
        std::size_t size;
        void* data;
    };
    using Shelf = std::shared_ptr<std::unique_ptr<Memory>>;
    // What an array owns; at its end the memory goes back to the shelf, where there is still one.
    struct Block {
        std::unique_ptr<Memory> memory;
        Shelf home;
        ~Block() { *home = std::move(memory); }
    };

    Shelf shelf_ = std::make_shared<std::unique_ptr<Memory>>();
};

}  // namespace flatcore::bindings
