// OpenMP loops, serial where OpenMP is absent. Bodies run concurrently and must not call BLAS.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <exception>

#include "core/views.hpp"

namespace flatcore {

inline int max_threads() {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

// body(first, last) over consecutive ranges of [0, n), none shorter than `grain` unless n is. The ranges depend only
// on n, grain and the number of threads, so results are reproducible. The first exception is rethrown after the loop.
template <class Body>
void parallel_ranges(Index n, Index grain, const Body& body) {
    const Index pieces = std::max<Index>(1, std::min<Index>(max_threads(), n / std::max<Index>(1, grain)));
    if (pieces == 1) {
        body(Index{0}, n);
        return;
    }
    std::exception_ptr error;
#ifdef _OPENMP
#pragma omp parallel for schedule(static, 1) num_threads(static_cast<int>(pieces))
#endif
    for (Index p = 0; p < pieces; ++p) {
        try {
            body(n * p / pieces, n * (p + 1) / pieces);
        } catch (...) {
#ifdef _OPENMP
#pragma omp critical(flatcore_parallel_error)
#endif
            if (!error) error = std::current_exception();
        }
    }
    if (error) std::rethrow_exception(error);
}

}  // namespace flatcore
