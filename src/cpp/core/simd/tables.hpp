// Every table that this build and processor support, best first: for tests.
#pragma once

#include <vector>

#include "core/simd/simd.hpp"

namespace flatcore::simd {

std::vector<const Table*> supported_tables();

}  // namespace flatcore::simd
