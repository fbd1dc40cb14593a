// Does the library agree with the stand-in LLVM/MLIR headers? Runs the
// library's constructors on marked memory and compares with ours.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <new>
#include <string>

#include "mlir/IR/BuiltinOps.h"

static int bad = 0;
static void check(bool ok, const char* what) {
  if (!ok) { std::printf("differs: %s\n", what); bad = 1; }
}
static void* sym(const char* name) {
  void* p = dlsym(RTLD_DEFAULT, name);
  if (p == nullptr) { std::printf("missing: %s\n", name); bad = 1; }
  return p;
}
// The number of bytes up to the last one that is not the mark.
static size_t used(const unsigned char* m, size_t n, unsigned char mark) {
  while (n > 0 && m[n - 1] == mark) --n;
  return n;
}

int main() {
  using llvm::raw_string_ostream;
  alignas(16) unsigned char theirs[512], ours[512];
  const unsigned char mark = 0xA5;

  // Layout of raw_string_ostream: the library's constructor against ours.
  std::string text;
  std::memset(theirs, mark, sizeof theirs);
  std::memset(ours, mark, sizeof ours);
  if (void* f = sym("_ZN4llvm18raw_string_ostreamC2ERNSt7__cxx1112basic_"
                    "stringIcSt11char_traitsIcESaIcEEE")) {
    reinterpret_cast<void (*)(void*, std::string&)>(f)(theirs, text);
    auto* s = new (ours) raw_string_ostream(text);
    check(used(theirs, sizeof theirs, mark) == sizeof(raw_string_ostream),
          "size of raw_string_ostream");
    // 41..43 is padding after the bool.
    check(std::memcmp(theirs, ours, 41) == 0 &&
              std::memcmp(theirs + 44, ours + 44, sizeof ours - 44) == 0,
          "layout of raw_string_ostream");
    // The library writes through our object, and we through the virtual table.
    auto* w = reinterpret_cast<llvm::raw_ostream& (*)(void*, const char*, size_t)>(
        sym("_ZN4llvm11raw_ostream5writeEPKcm"));
    if (w != nullptr) {
      w(s, "abc", 3);
      s->reserveExtraSpace(8);
      s->flush();
      check(text == "abc", "writing through raw_string_ostream");
      check(!s->is_displayed() && !s->has_colors(), "virtual functions");
    }
    s->~raw_string_ostream();
  }

  // Room for OpPrintingFlags, with a wide margin.
  for (unsigned char m : {0xA5, 0x5A}) {
    std::memset(theirs, m, sizeof theirs);
    if (void* f = sym("_ZN4mlir15OpPrintingFlagsC1Ev")) {
      reinterpret_cast<void (*)(void*)>(f)(theirs);
      check(used(theirs, sizeof theirs, m) <= sizeof(mlir::OpPrintingFlags) / 2,
            "size of OpPrintingFlags");
    }
  }

  // A context is one pointer.
  std::memset(theirs, mark, sizeof theirs);
  auto* c = new (theirs) mlir::MLIRContext();
  check(used(theirs, sizeof theirs, mark) == sizeof(mlir::MLIRContext),
        "size of MLIRContext");
  c->~MLIRContext();

  // What the crate reaches through these headers is there.
  for (const char* n :
       {"_ZN4mlir9Operation5eraseEv",
        "_ZN4mlir9Operation5printERN4llvm11raw_ostreamERKNS_15OpPrintingFlagsE",
        "_ZN4mlir11MLIRContextC1ENS0_9ThreadingE", "_ZN4mlir11MLIRContextD1Ev",
        "_ZN3xla21ConvertHloToStablehloERN4mlir11MLIRContextEPKNS_"
        "14HloModuleProtoE",
        "_ZN4pjrt7PjrtApiESt17basic_string_viewIcSt11char_traitsIcEE"})
    sym(n);
  std::puts(bad ? "the stand-in headers do NOT match" : "the stand-in headers match");
  return bad;
}
