# find_package(flatcore): the targets of core.cmake, built from the sources beside this file (docs/embedding.md).
cmake_minimum_required(VERSION 3.18...3.31)
if(TARGET flatcore::core)
  return()
endif()
get_filename_component(flatcore_site "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)  # where cmeel-eigen may be
include("${CMAKE_CURRENT_LIST_DIR}/core.cmake")
