// Thin singular value decomposition A = U diag(s) Vᵀ by LAPACK's divide and conquer (gesdd).
//
//   A: p × q,  U: p × r,  s: r descending,  Vt: r × q,  r = min(p, q).
//
// cost    about 6·max(p, q)·r² + 20·r³ flops; one uninterruptible LAPACK call.
#pragma once

#include <vector>

#include "core/run_control.hpp"
#include "core/views.hpp"

namespace flatcore {

template <class T>
struct ThinSvd {
    Matrix<T> U;
    std::vector<T> s;
    Matrix<T> Vt;
};

// Consumes A, whose memory LAPACK overwrites.
template <class T>
ThinSvd<T> thin_svd(Matrix<T> A, RunControl& control);

}  // namespace flatcore
