"""Takes what is needed out of a wheel.

    unpack.py PART WHEEL FOLDER                 unpacks what wheels.txt calls so
    unpack.py manifest FOLDER...                prints "size path" of every file below
    unpack.py check MANIFEST                    compares sizes with such a list; exit code 1 if one differs

Needs Python 3.8 or later, standard library only.
"""

import os
import re
import shutil
import sys
import zipfile

LIBRARIES = ("tensorflow/libtensorflow_cc.so.2", "tensorflow/libtensorflow_framework.so.2")
LICENSES = re.compile(r"dist-info/.*(LICENSE|License\.txt)|THIRD_PARTY_NOTICES")
HEADERS = "tensorflow/include/"
# Header folders that keep their place, and those of other projects that move to the top.
KEPT = ("Eigen/", "absl/", "google/", "ml_dtypes/", "tsl/", "unsupported/", "xla/")
MOVED = {
    "external/farmhash_archive/src/farmhash.h": "farmhash.h",
    "external/highwayhash/highwayhash/": "highwayhash/",
    "external/com_github_grpc_grpc/include/": "",
}


def header_place(name):
    """Where a header of the wheel goes, or None if it is not needed."""
    if name.startswith(KEPT):
        return "include/" + name
    for start, place in MOVED.items():
        if name.startswith(start):
            return "include/" + place + name[len(start):]
    return None


def place_xla(name):
    if name in LIBRARIES:
        return "lib/" + os.path.basename(name)
    if LICENSES.search(name):
        return "licenses/" + os.path.basename(name)
    if name.startswith(HEADERS):
        return header_place(name[len(HEADERS):])
    return None


def place_clang(name):
    return "clang/lib/libclang.so" if name.endswith("/libclang.so") else None


def place_libtpu(name):
    return "tpu/libtpu.so" if name == "libtpu/libtpu.so" else None


def place_cpu_plugin(name):
    if LICENSES.search(name):
        return "cpu-plugin/" + os.path.basename(name)
    return "cpu-plugin/pjrt_c_api_cpu_plugin.so" if name.endswith("/pjrt_c_api_cpu_plugin.so") else None


def place_cuda_plugin(name):
    return "cuda/plugin/xla_cuda_plugin.so" if name.endswith("/xla_cuda_plugin.so") else None


def place_cuda_nvcc(name):
    if LICENSES.search(name):
        return "cuda/bin/" + os.path.basename(name)
    return "cuda/bin/" + os.path.basename(name) if name.endswith(("/bin/ptxas", "/bin/nvlink")) else None


def place_cuda_nvvm(name):
    if LICENSES.search(name):
        return "cuda/nvvm/" + os.path.basename(name)
    return "cuda/nvvm/libdevice/libdevice.10.bc" if name.endswith("/libdevice.10.bc") else None


PLACES = {
    "xla": place_xla,
    "clang": place_clang,
    "libtpu": place_libtpu,
    "cpu-plugin": place_cpu_plugin,
    "cuda-plugin": place_cuda_plugin,
    "cuda-nvcc": place_cuda_nvcc,
    "cuda-nvvm": place_cuda_nvvm,
}


def unpack(part, wheel, folder):
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            place = None if info.is_dir() else PLACES[part](info.filename)
            if place is None:
                continue
            path = os.path.join(folder, place)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with archive.open(info) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)  # checks the CRC
            os.chmod(path, 0o755 if ".so" in place or "/bin/" in place else 0o644)


def manifest(folders):
    for folder in folders:
        for top, _, files in os.walk(folder):
            for file in sorted(files):
                path = os.path.join(top, file)
                print(os.path.getsize(path), path)


def check(path):
    with open(path) as lines:
        for line in lines:
            size, name = line.rstrip("\n").split(" ", 1)
            found = os.path.getsize(name) if os.path.exists(name) else None
            if found != int(size):
                sys.exit("%s: %s bytes expected, found %s" % (name, size, found))


if __name__ == "__main__":
    if sys.argv[1] == "manifest":
        manifest(sys.argv[2:])
    elif sys.argv[1] == "check":
        check(sys.argv[2])
    else:
        unpack(*sys.argv[1:4])
