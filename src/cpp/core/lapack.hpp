// The seam to BLAS and LAPACK: a table of Fortran function pointers that the embedding program supplies.
//
// The Python extension fills it from the pointers SciPy exports (one BLAS, tuned at run time, in every wheel). Other
// programs take a table from fortran_lapack.hpp (a BLAS they are linked with) or eigen_lapack.hpp (none), or fill one.
// Nothing else in the core knows where the routines come from. Integers are 32 bits wide. Routines are called outside
// parallel regions, and may use threads of their own.
#pragma once

namespace flatcore {

template <class T>
using GemmFunction = void(char*, char*, int*, int*, int*, T*, T*, int*, T*, int*, T*, T*, int*);
template <class T>
using GesddFunction = void(char*, int*, int*, T*, int*, T*, T*, int*, T*, int*, T*, int*, int*, int*);
template <class T>
using SyevdFunction = void(char*, char*, int*, T*, int*, T*, T*, int*, int*, int*, int*);

struct LapackTable {
    GemmFunction<float>* sgemm = nullptr;
    GemmFunction<double>* dgemm = nullptr;
    GesddFunction<float>* sgesdd = nullptr;
    GesddFunction<double>* dgesdd = nullptr;
    SyevdFunction<double>* dsyevd = nullptr;
};

// For the whole program: set once before the first product, by one thread; later calls replace the table.
void install_lapack(const LapackTable& table);
const LapackTable& lapack();

}  // namespace flatcore
