//! How far away an address is.

use std::io;
use std::net::{IpAddr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use router::Reach;

/// How far away an address is. What is not surely near is far.
pub(crate) fn reach(url: &Url) -> Reach {
    let host = url.host_str().unwrap_or_default();
    let name = host.trim_matches(['[', ']']).trim_end_matches('.');
    if let Ok(address) = name.parse::<IpAddr>() {
        return reach_of_ip(address.to_canonical());
    }
    let name = name.to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") {
        return Reach::Device;
    }
    // Names that the domain name system keeps for local networks, and names without a dot.
    let local = [".local", ".lan", ".home.arpa", ".internal"];
    if !name.contains('.') || local.iter().any(|suffix| name.ends_with(suffix)) {
        return Reach::Lan;
    }
    Reach::Cloud
}

fn reach_of_ip(address: IpAddr) -> Reach {
    let is_local = match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    };
    if address.is_loopback() {
        Reach::Device
    } else if is_local {
        Reach::Lan
    } else {
        Reach::Cloud
    }
}

/// Resolves names to addresses within a reach, and no others: whoever answers for a name of
/// the house may name an address outside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Near(pub(crate) Reach);

impl Near {
    fn filtered(
        self,
        name: &str,
        addresses: impl Iterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, String> {
        let is_near = |address: &SocketAddr| reach_of_ip(address.ip().to_canonical()) <= self.0;
        let near: Vec<_> = addresses.filter(is_near).collect();
        match near.is_empty() {
            false => Ok(near),
            true => Err(format!(
                "`{name}` has no address within `{}`; set `reach` if it is meant to be farther away",
                self.0.word()
            )),
        }
    }
}

impl Near {
    /// The addresses of a name.
    ///
    /// # Errors
    /// It has none, or none that is near enough.
    pub(crate) async fn addresses(self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let addresses = tokio::net::lookup_host((name, port)).await?;
        self.filtered(name, addresses).map_err(io::Error::other)
    }
}

impl Resolve for Near {
    fn resolve(&self, name: Name) -> Resolving {
        let near = *self;
        Box::pin(async move {
            let near = near.addresses(name.as_str(), 0).await?;
            Ok(Box::new(near.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_how_far_they_are() {
        let cases = [
            ("http://127.0.0.1:8080", Reach::Device),
            ("http://[::1]:8080/v1", Reach::Device),
            ("http://[::ffff:127.0.0.1]/", Reach::Device),
            ("http://LOCALHOST:1", Reach::Device),
            ("http://192.168.1.7:11434", Reach::Lan),
            ("http://10.0.0.1", Reach::Lan),
            ("http://[fd00::1]", Reach::Lan),
            ("http://box:8000", Reach::Lan),
            ("http://box.local:8000", Reach::Lan),
            ("https://api.openai.com/v1", Reach::Cloud),
            ("https://localhost.example.com", Reach::Cloud),
            ("http://127.0.0.1.example.com", Reach::Cloud),
            ("http://8.8.8.8", Reach::Cloud),
            // Shared by the customers of a provider.
            ("http://100.64.0.1", Reach::Cloud),
        ];
        for (url, wanted) in cases {
            assert_eq!(reach(&Url::parse(url).unwrap()), wanted, "{url}");
        }
    }

    #[test]
    fn names_of_the_house_lead_nowhere_else() {
        let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
            texts
                .iter()
                .map(|text| SocketAddr::new(text.parse().unwrap(), 0))
                .collect()
        };
        let filtered =
            |reach, texts: &[&str]| Near(reach).filtered("box.lan", addresses(texts).into_iter());
        let mixed = [
            "93.184.216.34",
            "192.168.1.7",
            "::ffff:10.0.0.1",
            "2606:4700::1",
        ];
        let near = addresses(&["192.168.1.7", "::ffff:10.0.0.1"]);
        assert_eq!(filtered(Reach::Lan, &mixed), Ok(near));
        let refused = filtered(Reach::Lan, &["93.184.216.34"]).unwrap_err();
        assert!(
            refused.contains("`box.lan`") && refused.contains("`lan`"),
            "{refused}"
        );
        assert!(filtered(Reach::Device, &["192.168.1.7"]).is_err());
        assert!(filtered(Reach::Device, &["127.0.0.1"]).is_ok());
    }

    #[tokio::test]
    async fn localhost_is_near() {
        let resolved = Near(Reach::Device)
            .resolve("localhost".parse().unwrap())
            .await;
        assert!(resolved.is_ok_and(|mut addresses| addresses.next().is_some()));
    }
}
