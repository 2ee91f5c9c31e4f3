#include "core/simd/simd.hpp"

#ifdef FLATCORE_SIMD_X86
#include <cpuid.h>
#endif

#include <cstdlib>
#include <string>
#include <vector>

#include "core/errors.hpp"
#include "core/simd/tables.hpp"

namespace flatcore::simd {

namespace baseline {
extern const Table kTable;
}
#ifdef FLATCORE_SIMD_X86
namespace avx2 {
extern const Table kTable;
}
namespace avx512 {
extern const Table kTable;
}
#endif

namespace {

struct Set {
    const char* name;
    const Table* table;
    bool supported;
};

// Best first. A set is supported where this build has it and the processor can run it.
std::vector<Set> sets() {
#ifdef FLATCORE_SIMD_X86
    __builtin_cpu_init();
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;  // not every compiler knows f16c by name
    const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return {{"avx512", &avx512::kTable, avx512}, {"avx2", &avx2::kTable, avx2}, {"baseline", &baseline::kTable, true}};
#else
    return {{"baseline", &baseline::kTable, true}};
#endif
}

const Table& chosen() {
    const char* asked = std::getenv("FLATCORE_SIMD");
    const std::string name = asked ? asked : "";
    for (const Set& set : sets())
        if (set.supported && (name.empty() || name == set.name)) return *set.table;
    throw InvalidArgument("FLATCORE_SIMD is " + name +
                          "; expected baseline, or avx2 or avx512 where they are built and run");
}

}  // namespace

const Table& table() {
    static const Table& table = chosen();
    return table;
}

std::vector<const Table*> supported_tables() {
    std::vector<const Table*> out;
    for (const Set& set : sets())
        if (set.supported) out.push_back(set.table);
    return out;
}

template <>
const SkinnyKernels<float>& skinny<float>() {
    return table().skinny32;
}
template <>
const SkinnyKernels<double>& skinny<double>() {
    return table().skinny64;
}
template <>
const SmallChainKernels<float>& small_chain<float>() {
    return table().chain32;
}
template <>
const SmallChainKernels<double>& small_chain<double>() {
    return table().chain64;
}
template <>
const AmpKernels<float>& amp<float>() {
    return table().amp32;
}
template <>
const AmpKernels<double>& amp<double>() {
    return table().amp64;
}
template <>
const CommitteeKernels<float>& committee<float>() {
    return table().committee32;
}
template <>
const CommitteeKernels<double>& committee<double>() {
    return table().committee64;
}
const OnlineKernels& online() { return table().online; }

}  // namespace flatcore::simd
