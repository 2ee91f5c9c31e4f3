#include "core/lapack.hpp"

#include "core/errors.hpp"

namespace flatcore {

namespace {
LapackTable& table_storage() {
    static LapackTable table;
    return table;
}
}  // namespace

void install_lapack(const LapackTable& table) {
    require(table.sgemm && table.dgemm && table.sgesdd && table.dgesdd && table.dsyevd,
            "the LAPACK table must hold every routine");
    table_storage() = table;
}

const LapackTable& lapack() {
    require(table_storage().dgemm != nullptr, "no BLAS is installed: call install_lapack first");
    return table_storage();
}

}  // namespace flatcore
