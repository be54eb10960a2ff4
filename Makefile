# Tulle: everything is here; `make help` lists it. All work is done by Go and its own tools.

GO        ?= go
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   := -s -w -X main.version=$(VERSION)
# grpcnotrace leaves out pages of gRPC's that nobody serves. Their templates call methods by name, so that the linker would have to
# keep every exported method of everything: 4 MB of each program, most of them in memory.
BUILD     := CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -tags grpcnotrace -ldflags '$(LDFLAGS)'
FUZZTIME  ?= 20s
BENCHTIME ?= 1s
SOAK      ?= 1h
IMAGES    ?= bin/images
ARCHITECTURES ?= amd64 arm64
CLUSTER   ?= tulle
NODES     ?= 3
MODULES   := mesh bpf ztunnel waypoint cni-plugin istiod-lite cli deploy
UNIT      := $(foreach m,$(MODULES),./$(m)/...)

.DEFAULT_GOAL := help
.PHONY: help build images charts demo test test-short test-controlplane e2e conformance cluster-up cluster-down cluster-shell lint generate fuzz bench bench-capture bench-controlplane bench-waypoint soak bench-go clean need-go need-cc need-root

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: need-go ## static binaries in bin/: ztunnel, waypoint, istiod-lite, tulle-cni, tulle-cni-agent, tulle
	@mkdir -p bin
	$(BUILD) -o bin/ztunnel ./ztunnel
	$(BUILD) -o bin/waypoint ./waypoint
	$(BUILD) -o bin/istiod-lite ./istiod-lite
	$(BUILD) -o bin/tulle-cni ./cni-plugin
	$(BUILD) -o bin/tulle-cni-agent ./cni-plugin/node-agent
	$(BUILD) -o bin/tulle ./cli

images: need-go ## images of the components as OCI archives, and what they are made of, in bin/images/: ARCHITECTURES=amd64
	@for arch in $(ARCHITECTURES); do mkdir -p $(IMAGES)/linux-$$arch; \
	  GOOS=linux GOARCH=$$arch $(BUILD) -o $(IMAGES)/linux-$$arch/ ./istiod-lite ./ztunnel ./waypoint ./cni-plugin ./cni-plugin/node-agent ./deploy/samples/bookinfo-like || exit 1; done
	$(GO) run ./deploy/images -version $(VERSION) -built $(IMAGES) -to $(IMAGES) $(ARCHITECTURES)

charts: need-go ## Helm charts, and a manifest of all they install, in bin/charts/
	@mkdir -p bin/charts
	$(GO) run ./deploy/charts -version $(VERSION) -from deploy/charts -to bin/charts

demo: need-root build ## two simulated nodes, four pods, the whole mesh, step by step (root)
	bin/tulle demo

test: need-go need-cc need-root ## every test under the race detector, in real namespaces (root)
	$(GO) test -race -timeout 10m $(UNIT)
	$(GO) test -run LargeMesh ./ztunnel/daemon
	$(GO) test -race -timeout 30m -p 1 ./e2e/...

test-controlplane: need-go need-cc need-root ## istiod-lite and the node agent against a real API server and etcd, which are built once, in six minutes (root)
	$(GO) test -race -count=1 -timeout 30m ./e2e/apiserver ./e2e/controlplane ./e2e/nodeagent

e2e: need-go need-root ## the mesh on a real Kubernetes on this machine, or on the one of KUBECONFIG with images HUB/name:TAG; part of test (root)
	$(GO) test -count=1 -timeout 45m -p 2 ./e2e/cluster/... ./e2e/scenario ./e2e/l7 ./e2e/docs

conformance: need-go need-root ## Gateway API's own conformance suite for meshes on a real Kubernetes of two nodes, in two to four minutes, the first time twelve; writes its report to docs/conformance (root)
	$(GO) run ./e2e/conformance -version $(VERSION) -report docs/conformance/standard-v1.6.3-default-report.yaml

cluster-up: need-go need-root ## a real Kubernetes on this machine that stays: NODES=3, CLUSTER=name; the first time it is built for six minutes (root)
	$(GO) run ./e2e/cluster/command up $(CLUSTER) $(NODES)

cluster-down: need-go need-root ## end that Kubernetes, and remove all of it
	$(GO) run ./e2e/cluster/command down $(CLUSTER)

cluster-shell: need-go need-root ## a shell with kubectl that reaches pods, services and nodes of that Kubernetes; with NODE=2, one on that node
	$(GO) run ./e2e/cluster/command shell $(CLUSTER) $(NODE)

test-short: need-go ## the tests that need no root and no C compiler
	$(GO) test -short $(UNIT)

lint: need-go ## formatting, vet, staticcheck, import direction, dependencies, generated files
	$(GO) test -count=1 ./e2e/guard

generate: need-go ## rewrite the generated code (mesh/api, BPF objects if there is clang) and the dependency lists
	$(GO) run ./e2e/generate
	@if command -v clang >/dev/null; then cd bpf && $(GO) generate ./...; \
	  else echo 'BPF objects stay as they are: apt-get install -y clang llvm libbpf-dev'; fi
	$(GO) test -count=1 -run Dependencies ./e2e/guard -update

fuzz: need-go ## run every fuzz target for FUZZTIME (20s)
	@set -e; for pkg in $$($(GO) list $(UNIT)); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; \
	done

bench: need-go need-root ## what ztunnel costs, in ratios to a splice relay: BENCH='-rows requests -rounds 5', ZTUNNEL_BIN=name=path (root)
	@mkdir -p bin
	$(GO) run ./e2e/bench -json bin/bench.json $(BENCH)

bench-capture: need-go need-root ## what the engines that capture cost, beside no capture; the agent's time for a pod, and for 250 (root)
	$(GO) test -run '^$$' -bench 'Capture|Enrol' -benchtime 3s -cpu 1 ./cni-plugin/redirect
	$(GO) test -run '^$$' -bench AgentStart -benchtime 1x ./cni-plugin/daemon

bench-controlplane: need-go ## what istiod-lite costs with 2,000 to 100,000 pods and 100 clients: BENCH='-pods 10000'
	@mkdir -p bin
	$(GO) run ./e2e/bench/controlplane -json bin/bench-controlplane.json $(BENCH)

bench-waypoint: need-go need-root ## what a waypoint costs for a request, beside httputil.ReverseProxy: BENCH='-rows gRPC -rounds 5 -with name=path' (root)
	@mkdir -p bin
	$(GO) run ./e2e/bench/waypoint -json bin/bench-waypoint.json $(BENCH)

soak: need-go need-root ## the real programs under traffic, churn and kills for an hour, or SOAK=2m; says what leaked or failed (root)
	$(GO) run ./e2e/soak -duration $(SOAK)

bench-go: need-go ## run every Go benchmark for BENCHTIME (1s)
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) $(UNIT)

clean: ## remove bin/
	rm -rf bin

need-go:
	@command -v $(GO) >/dev/null || { echo 'tulle needs Go 1.26 or newer: https://go.dev/doc/install'; exit 1; }

need-cc:
	@command -v $$($(GO) env CC) >/dev/null || { echo 'the race detector needs a C compiler: apt-get install -y gcc libc6-dev'; exit 1; }

need-root:
	@[ "$$(id -u)" = 0 ] || { echo 'this makes network namespaces and needs root: sudo env "PATH=$$PATH" make $(MAKECMDGOALS) (without root: make test-short)'; exit 1; }
