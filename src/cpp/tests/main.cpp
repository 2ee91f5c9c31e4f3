#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "core/eigen_lapack.hpp"

int main(int argc, char** argv) {
    flatcore::install_lapack(flatcore::eigen_lapack());
    return doctest::Context(argc, argv).run();
}
