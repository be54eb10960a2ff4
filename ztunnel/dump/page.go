package dump

import (
	"bufio"
	"encoding/json"
	"io"

	"github.com/tulle-mesh/tulle/mesh/state"
)

// Write writes the page that /config_dump shows. Its lists keep the order of the parts. It is written piece by piece: a mesh
// of 100,000 workloads makes a text of 100 MB, which must not be in memory at once.
func Write(w io.Writer, parts Parts) error {
	p := &page{out: bufio.NewWriterSize(w, 64<<10)}
	p.text("{\n")
	list(p, "workloads", parts.Table.Workloads(), newWorkload)
	list(p, "services", parts.Table.Services(), func(svc *state.Service) service { return newService(parts.Table, svc) })
	list(p, "policies", parts.Table.Policies(), newPolicy)
	list(p, "certificates", parts.Certificates, newIdentity)
	pods := map[string]pod{}
	for _, one := range parts.Pods {
		pods[one.UID] = newPod(one)
	}
	p.field("workloadState", pods)
	p.field("version", map[string]string{"version": parts.Version})
	p.field("config", parts.Config)
	p.field("staticConfig", struct{}{})
	// Endpoints that wait for their service; there are none, as a table joins both whatever comes first.
	p.field("stagedServices", struct{}{})
	p.text("\n}\n")
	if p.err != nil {
		return p.err
	}
	return p.out.Flush()
}

// page is a JSON object that is being written.
type page struct {
	out    *bufio.Writer
	fields int
	err    error // the first that there was; nothing more is written then
}

// name begins a field.
func (p *page) name(name string) {
	if p.fields++; p.fields > 1 {
		p.text(",\n")
	}
	p.text("  \"" + name + "\": ")
}

func (p *page) field(name string, value any) {
	p.name(name)
	p.value(value, "  ")
}

// list writes a field that is a list, one element after the other.
func list[From, To any](p *page, name string, from []From, convert func(From) To) {
	p.name(name)
	if len(from) == 0 {
		p.text("[]")
		return
	}
	separator := "[\n    "
	for _, element := range from {
		if p.err != nil {
			return
		}
		p.text(separator)
		p.value(convert(element), "    ")
		separator = ",\n    "
	}
	p.text("\n  ]")
}

func (p *page) value(value any, prefix string) {
	text, err := json.MarshalIndent(value, prefix, "  ")
	if p.err == nil {
		p.err = err
	}
	p.text(string(text))
}

func (p *page) text(text string) {
	if p.err == nil {
		_, p.err = p.out.WriteString(text)
	}
}
