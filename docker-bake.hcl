# Images for both platforms, compiled in the Dockerfile: `docker buildx bake` (BuildKit; for the platform that is not
# the machine's, a builder of that platform or an emulator).
#
#   docker buildx bake --print                               what would be built
#   REGISTRY=registry.example/flotilla docker buildx bake --push
#   BASE=debian@sha256:… RUST=rust@sha256:… docker buildx bake    bases by digest

variable "REGISTRY" { default = "localhost" }
variable "TAG" { default = "dev" }
variable "VERSION" { default = "unknown" }
variable "REVISION" { default = "unknown" }
variable "BASE" { default = "debian:trixie-slim" }
variable "RUST" { default = "rust:1.95.0-trixie" }

group "default" { targets = ["server", "operator"] }

target "image" {
  context   = "."
  platforms = ["linux/amd64", "linux/arm64"]
  args      = { BASE = BASE, RUST = RUST, VERSION = VERSION, REVISION = REVISION }
  # What is in it and how it was made, kept beside the image in the registry.
  attest = ["type=sbom", "type=provenance,mode=max"]
}

target "server" {
  inherits = ["image"]
  target   = "server"
  tags     = ["${REGISTRY}/flotilla-server:${TAG}"]
}

target "operator" {
  inherits = ["image"]
  target   = "operator"
  tags     = ["${REGISTRY}/flotilla-operator:${TAG}"]
}
