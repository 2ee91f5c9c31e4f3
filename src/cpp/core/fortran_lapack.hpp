// The LAPACK table of the BLAS and LAPACK that the program is linked with, by their usual Fortran names.
//
// It declares those names as the core calls them, so include it where no other header declares them. Libraries with
// 64-bit integers (ILP64) do not fit.
#pragma once

#include "core/lapack.hpp"

extern "C" {
flatcore::GemmFunction<float> sgemm_;
flatcore::GemmFunction<double> dgemm_;
flatcore::GesddFunction<float> sgesdd_;
flatcore::GesddFunction<double> dgesdd_;
flatcore::SyevdFunction<double> dsyevd_;
}

namespace flatcore {

inline LapackTable fortran_lapack() {
    LapackTable table;
    table.sgemm = sgemm_;
    table.dgemm = dgemm_;
    table.sgesdd = sgesdd_;
    table.dgesdd = dgesdd_;
    table.dsyevd = dsyevd_;
    return table;
}

}  // namespace flatcore
