// Stand-in for the LLVM header of this name: only what the `xla` crate uses.
// Written for this project; it declares the binary interface of
// llvm::raw_ostream and llvm::raw_string_ostream as found in
// libtensorflow_framework.so.2 of tensorflow-cpu 2.21.0 (abi_test.cc
// checks it). Both classes' vtables live in that library.
#ifndef SWITCHYARD_XLA_LLVM_RAW_OSTREAM_H_
#define SWITCHYARD_XLA_LLVM_RAW_OSTREAM_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace llvm {

class raw_ostream {
 public:
  enum class OStreamKind { OK_OStream, OK_FDStream, OK_SVecStream };
  enum class Colors : int;

  // First out-of-line virtual: the vtable is the library's.
  virtual ~raw_ostream();
  virtual void reserveExtraSpace(uint64_t);
  virtual raw_ostream& changeColor(Colors, bool bold = false, bool bg = false);
  virtual raw_ostream& resetColor();
  virtual raw_ostream& reverseColor();
  virtual bool is_displayed() const;
  virtual bool has_colors() const;
  virtual void enable_colors(bool);

  raw_ostream(const raw_ostream&) = delete;
  raw_ostream& operator=(const raw_ostream&) = delete;

  void flush() {
    if (cur_ != begin_) flush_nonempty();
  }

 protected:
  // Every stream made through this header is unbuffered.
  explicit raw_ostream(OStreamKind kind) : kind_(kind) {}

 private:
  virtual void write_impl(const char*, size_t) = 0;
  virtual uint64_t current_pos() const = 0;
  virtual size_t preferred_buffer_size() const;
  virtual void anchor();
  void flush_nonempty();

  enum class BufferKind { Unbuffered, InternalBuffer, ExternalBuffer };
  OStreamKind kind_;
  char* begin_ = nullptr;
  char* end_ = nullptr;
  char* cur_ = nullptr;
  bool color_enabled_ = false;
  BufferKind mode_ = BufferKind::Unbuffered;
};

// Appends to a std::string owned by the caller.
class raw_string_ostream : public raw_ostream {
 public:
  explicit raw_string_ostream(std::string& out)
      : raw_ostream(OStreamKind::OK_OStream), out_(out) {}
  void reserveExtraSpace(uint64_t) override;
  std::string& str() { return out_; }

 private:
  void write_impl(const char*, size_t) override;
  uint64_t current_pos() const override;

  std::string& out_;
};

}  // namespace llvm

#endif
