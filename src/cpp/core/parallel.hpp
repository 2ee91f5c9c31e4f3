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

// Entries copied or summed below which a second thread costs more than it saves.
constexpr Index kEntriesPerThread = Index{1} << 15;

// How many pieces [0, n) is cut into: at most one a thread, none shorter than `grain` unless n is.
inline Index parallel_pieces(Index n, Index grain) {
    return std::max<Index>(1, std::min<Index>(max_threads(), n / std::max<Index>(1, grain)));
}

// body(piece, first, last) over `pieces` consecutive ranges of [0, n). The first exception is rethrown after the loop.
template <class Body>
void parallel_pieces_of(Index n, Index pieces, const Body& body) {
    if (pieces == 1) {
        body(Index{0}, Index{0}, n);
        return;
    }
    std::exception_ptr error;
#ifdef _OPENMP
#pragma omp parallel for schedule(static, 1) num_threads(static_cast<int>(pieces))
#endif
    for (Index p = 0; p < pieces; ++p) {
        try {
            body(p, n * p / pieces, n * (p + 1) / pieces);
        } catch (...) {
#ifdef _OPENMP
#pragma omp critical(flatcore_parallel_error)
#endif
            if (!error) error = std::current_exception();
        }
    }
    if (error) std::rethrow_exception(error);
}

// The same where the body does not care which piece it is. The ranges depend only on n, grain and the number of
// threads, so results are reproducible.
template <class Body>
void parallel_ranges(Index n, Index grain, const Body& body) {
    parallel_pieces_of(n, parallel_pieces(n, grain), [&](Index, Index first, Index last) { body(first, last); });
}

}  // namespace flatcore
