package daemon

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/push"
	"github.com/tulle-mesh/tulle/istiod-lite/translate"
)

func emptyPipeline() *pipeline { return pipelineOf(model.Settings{}) }

// pipelineOf has some settings that don't go without saying.
func pipelineOf(settings model.Settings) *pipeline {
	settings.SystemNamespace, settings.Domain, settings.TrustDomain = "istio-system", "cluster.local", "cluster.local"
	return newPipeline(model.New(settings), translate.Mesh{ClusterID: "Kubernetes"}, push.NewLog(), slog.New(slog.DiscardHandler))
}

// published is every resource's version by its name.
func (p *pipeline) published() map[string]string {
	all := make(map[string]string)
	for _, typeURL := range []string{push.Address, push.Authorization} {
		for _, resource := range p.log.All(typeURL) {
			all[typeURL+" "+resource.Name] = resource.Version
		}
	}
	return all
}

func TestAResourceThatCannotBeEncodedKeepsNoOtherBack(t *testing.T) {
	p := emptyPipeline()
	var logged bytes.Buffer
	p.out = slog.New(slog.NewTextHandler(&logged, nil))
	registry := prometheus.NewRegistry()
	p.failures = newMetrics(registry, p.model, "test").failures
	good, bad := house(1, true), house(2, true)
	p.apply(context.Background(), []model.Change{{Key: bad.Key(), Object: bad}})
	before := p.published()
	broken := *bad
	broken.ServiceAccount = "not UTF-8: \xff"
	p.apply(context.Background(), []model.Change{{Key: broken.Key(), Object: &broken}, {Key: good.Key(), Object: good}})
	after := p.published()
	if len(after) != 2 || !p.ready.Load() {
		t.Errorf("published %v", after)
	}
	for name, version := range before {
		if after[name] != version {
			t.Errorf("%s changed", name)
		}
	}
	if !strings.Contains(logged.String(), "Pod/ns0/pod2") {
		t.Errorf("logged %s", logged.String())
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "pilot_total_xds_internal_errors" && family.Metric[0].Counter.GetValue() == 1 {
			return
		}
	}
	t.Error("it isn't counted")
}

func TestNobodyIsToldAnythingUntilAllOfItCanBeEncoded(t *testing.T) {
	p := emptyPipeline()
	good, bad := house(1, true), house(2, true)
	broken := *bad
	broken.ServiceAccount = "not UTF-8: \xff"
	p.apply(context.Background(), []model.Change{{Key: broken.Key(), Object: &broken}, {Key: good.Key(), Object: good}})
	if p.ready.Load() || *p.lacks.Load() != "1 resources that can't be encoded" {
		t.Errorf("ready %t", p.ready.Load())
	}
	p.apply(context.Background(), []model.Change{{Key: good.Key(), Object: house(1, false)}})
	if p.ready.Load() {
		t.Error("ready when another object changes")
	}
	p.apply(context.Background(), []model.Change{{Key: bad.Key(), Object: bad}})
	if !p.ready.Load() || len(p.published()) != 2 {
		t.Errorf("ready %t when it is mended, with %v", p.ready.Load(), p.published())
	}
}

func TestTheEndDoesNotWaitForAllThatChanged(t *testing.T) {
	p := emptyPipeline()
	ctx, end := context.WithCancel(t.Context())
	translated := 0
	p.tell = func(model.Key, int64, []model.Condition) {
		if translated++; translated == 3 {
			end()
		}
	}
	if p.apply(ctx, city(1000)) || translated != 3 || p.ready.Load() {
		t.Errorf("%d were told of after the end, ready %t", translated-3, p.ready.Load())
	}
}
