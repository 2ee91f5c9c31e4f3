// Fills the core's LAPACK table from the capsules SciPy exports, and sets the number of threads of that BLAS.
//
// A capsule's name is the C signature of its function. It is parsed, and a signature that differs from the one the
// core calls with (64-bit integers, say) is refused.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "bindings/numpy_views.hpp"
#include "bindings/registrations.hpp"
#include "bindings/signals.hpp"
#include "core/errors.hpp"
#include "core/lapack.hpp"
#include "core/parallel.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#define FLATCORE_HAS_DLFCN 1
#endif

namespace flatcore::bindings {

namespace {

// "void (char *, __pyx_t_5scipy_6linalg_11cython_blas_d *)" → "void(char*,double*)"
std::string normalised(std::string signature) {
    const std::string prefix = "__pyx_t_";
    for (std::size_t at = signature.find(prefix); at != std::string::npos; at = signature.find(prefix)) {
        const std::size_t end = signature.find_first_of(" *,)", at);
        const std::string name = signature.substr(at, end - at);
        const bool real = name.size() > 2 && name[name.size() - 2] == '_';
        const char kind = real ? name.back() : '?';
        const char* type = kind == 'd' ? "double" : kind == 's' ? "float" : "unknown";
        signature.replace(at, end - at, type);
    }
    std::string out;
    for (const char c : signature)
        if (c != ' ') out += c;
    return out;
}

// One letter an argument: c char*, i int*, r real*.
std::string expected_signature(const std::string& arguments, const std::string& real) {
    std::string out = "void(";
    for (const char a : arguments) {
        if (out.back() != '(') out += ',';
        out += a == 'c' ? "char*" : a == 'i' ? "int*" : real + "*";
    }
    return out + ")";
}

template <class Function>
Function* pointer_from(const py::dict& capsules, const char* name, const std::string& arguments) {
    require(capsules.contains(name), "SciPy exports no routine called ", name);
    const auto capsule = py::reinterpret_borrow<py::capsule>(capsules[name]);
    const std::string expected = expected_signature(arguments, name[0] == 'd' ? "double" : "float");
    const std::string came = normalised(capsule.name() ? capsule.name() : "");
    require(came == expected, "SciPy's ", name, " has the signature ", came, ", flatcore calls ", expected);
    return reinterpret_cast<Function*>(capsule.get_pointer());
}

void install_from_scipy() {
    const py::dict blas = py::module_::import("scipy.linalg.cython_blas").attr("__pyx_capi__");
    const py::dict lapack_ = py::module_::import("scipy.linalg.cython_lapack").attr("__pyx_capi__");
    LapackTable table;
    table.sgemm = pointer_from<GemmFunction<float>>(blas, "sgemm", "cciiirririrri");
    table.dgemm = pointer_from<GemmFunction<double>>(blas, "dgemm", "cciiirririrri");
    table.sgesdd = pointer_from<GesddFunction<float>>(lapack_, "sgesdd", "ciirirriririii");
    table.dgesdd = pointer_from<GesddFunction<double>>(lapack_, "dgesdd", "ciirirriririii");
    table.dsyevd = pointer_from<SyevdFunction<double>>(lapack_, "dsyevd", "ccirirriiii");
    install_lapack(table);
}

#ifdef FLATCORE_HAS_DLFCN
// The first of `names` found in the library that holds the BLAS wrappers, or in what that library is linked to.
void* blas_symbol(std::initializer_list<const char*> names) {
    Dl_info info;
    if (!dladdr(reinterpret_cast<void*>(lapack().dgemm), &info) || !info.dli_fname) return nullptr;
    void* library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    if (!library) return nullptr;
    void* found = nullptr;
    for (const char* name : names)
        if ((found = dlsym(library, name))) break;
    dlclose(library);
    return found;
}
#endif

// The number of BLAS threads, 0 where this BLAS does not tell.
int get_blas_threads() {
#ifdef FLATCORE_HAS_DLFCN
    static void* const f =
        blas_symbol({"scipy_openblas_get_num_threads", "openblas_get_num_threads", "MKL_Get_Max_Threads"});
    if (f) return reinterpret_cast<int (*)()>(f)();
#endif
    return 0;
}

// True where the BLAS listens.
bool set_blas_threads(int threads) {
#ifdef FLATCORE_HAS_DLFCN
    static void* const f =
        blas_symbol({"scipy_openblas_set_num_threads", "openblas_set_num_threads", "MKL_Set_Num_Threads"});
    if (f) {
        reinterpret_cast<void (*)(int)>(f)(threads);
        return true;
    }
#endif
    (void)threads;
    return false;
}

void set_threads(int threads) {
#ifdef _OPENMP
    omp_set_num_threads(threads);
#else
    (void)threads;
#endif
}

py::dict build_info() {
    py::dict info;
#ifdef _OPENMP
    info["openmp"] = true;
#else
    info["openmp"] = false;
#endif
#if defined(__clang__)
    info["compiler"] = "Clang " __clang_version__;
#elif defined(__GNUC__)
    info["compiler"] = "GCC " __VERSION__;
#elif defined(_MSC_VER)
    info["compiler"] = "MSVC " + std::to_string(_MSC_VER);
#else
    info["compiler"] = "unknown";
#endif
    info["eigen"] = std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." +
                    std::to_string(EIGEN_MINOR_VERSION);
    info["simd"] = simd::table().name;
    info["eigen_simd"] = Eigen::SimdInstructionSetsInUse();
    return info;
}

py::array matmul(const py::array& A, const py::array& B) {
    RunControl control = python_control();
    const auto run = [&](auto t) -> py::array {
        using T = decltype(t);
        const auto a = const_view<T>(A), b = const_view<T>(B);
        Matrix<T> out(a.rows, b.cols);
        {
            const py::gil_scoped_release release;
            multiply<T>(T(1), a, b, T(0), out.view(), control);
        }
        return to_numpy(std::move(out));
    };
    return scalar_of_array(A) == Scalar::f32 ? run(float{}) : run(double{});
}

}  // namespace

void bind_lapack(py::module_& module) {
    install_from_scipy();
    module.def("normalised_signature", &normalised, py::arg("signature"),
               "A capsule's C signature with Cython's type names resolved and spaces removed.");
    module.def("matmul", &matmul, py::arg("A"), py::arg("B"), "A B of two matrices with a unit stride each.");
    module.def("max_threads", &max_threads, "OpenMP threads a parallel loop may use.");
    module.def("set_threads", &set_threads, py::arg("threads"), "Set the number of OpenMP threads.");
    module.def("get_blas_threads", &get_blas_threads, "BLAS threads, 0 where unknown.");
    module.def("set_blas_threads", &set_blas_threads, py::arg("threads"),
               "Set the BLAS threads; True where it worked.");
    module.def("build_info", &build_info, "How the extension was compiled.");
}

}  // namespace flatcore::bindings
