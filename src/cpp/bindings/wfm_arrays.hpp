// Arrays of the wide-flat-minima kernels: packed patterns as views of a uint32 array (groups, segments, words, 16).
#pragma once

#include "bindings/numpy_views.hpp"
#include "core/wfm/patterns.hpp"

namespace flatcore::bindings {

using WordArray = py::array_t<std::uint32_t, py::array::c_style>;

inline wfm::Patterns patterns_view(const WordArray& words, Index patterns, Index inputs) {
    require(words.ndim() == 4, "packed patterns have 4 dimensions, got ", words.ndim());
    wfm::Patterns out;
    out.patterns = patterns;
    out.segments = words.shape(1);
    out.inputs = inputs;
    out.data = words.data();
    require(words.shape(0) == out.groups() && words.shape(2) == out.words() && words.shape(3) == wfm::kGroup,
            "packed patterns have the wrong shape");
    return out;
}

}  // namespace flatcore::bindings
