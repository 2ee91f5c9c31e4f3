// The hash behind random vectors that depend on a seed and a position alone.
#pragma once

#include <cstdint>

namespace flatcore {

// A well-mixed 64-bit function of a counter (the finaliser of SplitMix64, Steele, Lea & Flood 2014). Static, because
// units compiled for different instruction sets include it and a linker would keep one of their copies.
static inline std::uint64_t mixed(std::uint64_t x) {
    x += 0x9E3779B97F4A7C15ULL;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

}  // namespace flatcore
