package model

// ReferenceGrant lets objects of other namespaces refer to those of its own.
type ReferenceGrant struct {
	Namespace, Name string
	From            []GrantFrom
	To              []GrantTo
}

// GrantFrom says who may refer.
type GrantFrom struct{ Group, Kind, Namespace string }

// GrantTo says what may be referred to; an empty name means every object of the kind.
type GrantTo struct{ Group, Kind, Name string }

// Key names it.
func (g *ReferenceGrant) Key() Key { return Key{KindReferenceGrant, Name{g.Namespace, g.Name}} }

func (g *ReferenceGrant) permits(from GrantFrom, to ObjectRef) bool {
	for _, f := range g.From {
		if f != from {
			continue
		}
		for _, t := range g.To {
			if t.Group == to.Group && t.Kind == to.Kind && (t.Name == "" || t.Name == to.Name.Name) {
				return true
			}
		}
	}
	return false
}
