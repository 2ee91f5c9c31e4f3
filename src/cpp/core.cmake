# The library in core/, for this project and for those that find the installed package.
#
#   flatcore::core           chains, curvature, singular values, products; a BLAS comes from install_lapack()
#   flatcore::many           curvature of thousands of small chains
#   flatcore::wfm            committee machines
#   flatcore::eigen_lapack   a table for install_lapack() by Eigen, where there is no BLAS
#
# Static libraries, built where they are linked. FLATCORE_SIMD=baseline leaves out what AVX2 and AVX-512 machines run.
set(FLATCORE_SIMD all CACHE STRING "Instruction sets of the kernels: all (chosen at run time) or baseline")
set_property(CACHE FLATCORE_SIMD PROPERTY STRINGS all baseline)
if(NOT FLATCORE_SIMD MATCHES "^(all|baseline)$")
  message(FATAL_ERROR "FLATCORE_SIMD is \"${FLATCORE_SIMD}\"; expected all or baseline")
endif()
set(FLATCORE_KERNEL_OPTIMISATION -O3 CACHE STRING "Optimisation of the kernels, whatever the build type")

# Eigen: an installed package first, else the headers of the PyPI package cmeel-eigen.
set(flatcore_eigen ${CMAKE_PREFIX_PATH} ${flatcore_site})
list(TRANSFORM flatcore_eigen APPEND /cmeel.prefix)
find_package(Eigen3 3.4 QUIET NO_MODULE HINTS ${flatcore_eigen})
if(NOT Eigen3_FOUND)
  message(FATAL_ERROR "flatcore needs Eigen 3.4: install it, or the PyPI package cmeel-eigen, and say where by CMAKE_PREFIX_PATH")
endif()
find_package(OpenMP COMPONENTS CXX)

function(flatcore_library name)
  list(TRANSFORM ARGN PREPEND "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/core/")
  add_library(flatcore_${name} STATIC EXCLUDE_FROM_ALL ${ARGN})
  add_library(flatcore::${name} ALIAS flatcore_${name})
  set_target_properties(flatcore_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_EXTENSIONS OFF UNITY_BUILD OFF)
endfunction()

flatcore_library(core
  balance.cpp
  block_vectors.cpp
  chain.cpp
  coupling.cpp
  dual.cpp
  gains.cpp
  hessian.cpp
  lapack.cpp
  magnitude.cpp
  matrix_product.cpp
  normal_product.cpp
  reduced_hessian.cpp
  simd/baseline.cpp
  simd/simd.cpp
  skinny.cpp
  svd.cpp
  symmetric_eigenvalues.cpp)
target_include_directories(flatcore_core PUBLIC "${CMAKE_CURRENT_LIST_DIR}")
target_compile_features(flatcore_core PUBLIC cxx_std_17)
target_compile_definitions(flatcore_core PUBLIC EIGEN_DONT_PARALLELIZE)
target_link_libraries(flatcore_core PUBLIC Eigen3::Eigen)
if(OpenMP_CXX_FOUND)
  target_link_libraries(flatcore_core PUBLIC OpenMP::OpenMP_CXX)
endif()

flatcore_library(many
  many_chains.cpp
  padded_chain.cpp
  small_lanczos.cpp
  tridiagonal.cpp)
target_link_libraries(flatcore_many PUBLIC flatcore_core)

flatcore_library(wfm
  wfm/amp.cpp
  wfm/bethe.cpp
  wfm/cross_entropy.cpp
  wfm/edge_bp.cpp
  wfm/node.cpp
  wfm/online.cpp
  wfm/patterns.cpp)
target_link_libraries(flatcore_wfm PUBLIC flatcore_core)

flatcore_library(eigen_lapack eigen_lapack.cpp)
target_link_libraries(flatcore_eigen_lapack PUBLIC flatcore_core)

# Kernels for each instruction set, chosen at run time. Contraction is what makes multiply-adds of products and sums.
if(NOT MSVC)
  set(flatcore_kernels -ffp-contract=fast ${FLATCORE_KERNEL_OPTIMISATION})
  set_source_files_properties("${CMAKE_CURRENT_LIST_DIR}/core/simd/baseline.cpp" PROPERTIES
    COMPILE_OPTIONS "${flatcore_kernels}")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND FLATCORE_SIMD STREQUAL all)
    target_compile_definitions(flatcore_core PRIVATE FLATCORE_SIMD_X86)
    target_sources(flatcore_core PRIVATE
      "${CMAKE_CURRENT_LIST_DIR}/core/simd/avx2.cpp"
      "${CMAKE_CURRENT_LIST_DIR}/core/simd/avx512.cpp")
    set_source_files_properties("${CMAKE_CURRENT_LIST_DIR}/core/simd/avx2.cpp" PROPERTIES
      COMPILE_OPTIONS "${flatcore_kernels};-mavx2;-mfma;-mf16c")
    set_source_files_properties("${CMAKE_CURRENT_LIST_DIR}/core/simd/avx512.cpp" PROPERTIES
      COMPILE_OPTIONS
      "${flatcore_kernels};-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mfma;-mf16c;-mprefer-vector-width=512")
  endif()
endif()
