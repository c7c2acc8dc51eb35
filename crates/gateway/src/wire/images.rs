//! Content of texts and images, in any dialect.
//!
//! An image is passed on as it came, to an engine that is known to see: an address is never
//! asked here, and what a `data:` URL holds is never looked into.

use proto::Image;

use crate::error::ApiError;
use crate::limits::{self, quoted};

/// What an image's address must be.
const RULE: &str = "an http(s) address or a data: URL of an image";
/// What base64 text of an image may begin with, and what image that is.
const BEGINNINGS: [(&str, &str); 5] = [
    ("iVBORw0KGgo", "image/png"),
    ("/9j/", "image/jpeg"),
    ("R0lGOD", "image/gif"),
    ("UklGR", "image/webp"),
    ("Qk", "image/bmp"),
];
const DETAILS: [&str; 4] = ["auto", "low", "high", "original"];

/// The content of a message while it is put together.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) text: String,
    pub(crate) images: Vec<Image>,
    n_blocks: usize,
}

impl Parts {
    pub(crate) fn is_empty(&self) -> bool {
        self.n_blocks == 0 && self.images.is_empty()
    }

    /// Adds a text that goes on where the last one ended.
    pub(crate) fn text(&mut self, text: &str) {
        self.n_blocks += 1;
        self.text.push_str(text);
    }

    /// Adds a text that begins on a line of its own.
    pub(crate) fn line(&mut self, text: &str) {
        if self.n_blocks > 0 {
            self.text.push('\n');
        }
        self.text(text);
    }

    /// Adds an image behind what is there.
    pub(crate) fn image(&mut self, image: Image) {
        self.images.push(Image {
            at: self.text.len(),
            ..image
        });
    }
}

/// The image at an address, or in a `data:` URL.
pub(crate) fn image(path: &str, url: String, detail: Option<String>) -> Result<Image, ApiError> {
    let has = |prefix: &str| {
        let start = url.get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    if !has("data:image/") {
        if !has("http://") && !has("https://") {
            return Err(ApiError::invalid(path, &quoted(&url), RULE));
        }
        limits::count(path, url.len(), limits::IMAGE_ADDRESS_BYTES_MAX, "bytes")?;
    }
    if let Some(detail) = &detail {
        limits::word("detail", detail, &DETAILS)?;
    }
    Ok(Image { url, detail, at: 0 })
}

/// The image in base64 text. Where nothing says of which type it is, its beginning does.
pub(crate) fn of_base64(
    path: &str,
    media_type: Option<&str>,
    data: &str,
) -> Result<Image, ApiError> {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    if data.is_empty() || !data.bytes().all(is_base64) {
        let rule = "an image in base64, without line feeds";
        return Err(ApiError::invalid(path, "no base64", rule));
    }
    let known = || BEGINNINGS.iter().find(|(start, _)| data.starts_with(start));
    let media_type = media_type.or_else(|| known().map(|(_, media_type)| *media_type));
    let media_type = media_type.ok_or_else(|| {
        let rule = "a PNG, JPEG, GIF, WebP or BMP image in base64";
        ApiError::invalid(path, "of another type", rule)
    })?;
    if !media_type.starts_with("image/") || media_type.contains([',', ';']) {
        let rule = "the media type of an image, as image/png";
        return Err(ApiError::invalid(path, &quoted(media_type), rule));
    }
    let url = format!("data:{media_type};base64,{data}");
    image(path, url, None)
}

/// Images can only be shown by the user.
pub(crate) fn only_of_the_user(path: &str) -> ApiError {
    let detail = "only messages of the user can have images";
    ApiError::not_supported(path, "an image", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_addresses_or_data() {
        let good = [
            "https://a.example/b.png",
            "HTTP://a/b",
            "data:image/png;base64,AAAA",
        ];
        for url in good {
            let image = image("p", url.into(), Some("low".into())).unwrap();
            assert_eq!(
                (&*image.url, image.is_inline()),
                (url, url.starts_with("data"))
            );
        }
        let long = format!("https://a/{}", "x".repeat(limits::IMAGE_ADDRESS_BYTES_MAX));
        let bad = ["", "file:///etc/passwd", "data:text/html,x", "b.png", &long];
        for url in bad {
            assert!(image("p", url.into(), None).is_err(), "{url}");
        }
        assert!(image("p", good[0].into(), Some("very".into())).is_err());
    }

    #[test]
    fn base64_says_what_it_is() {
        for (start, media_type) in BEGINNINGS {
            let image = of_base64("p", None, &format!("{start}AAAA")).unwrap();
            assert_eq!(image.url, format!("data:{media_type};base64,{start}AAAA"));
        }
        assert!(of_base64("p", None, "AAAA").is_err());
        assert!(of_base64("p", Some("image/png"), "AAAA").is_ok());
        for (media_type, data) in [
            (Some("image/png"), ""),
            (Some("image/png"), "a b"),
            (Some("image/png,x"), "AAAA"),
            (Some("text/plain"), "AAAA"),
        ] {
            assert!(of_base64("p", media_type, data).is_err(), "{data}");
        }
    }

    #[test]
    fn places_are_those_in_the_text() {
        let mut parts = Parts::default();
        assert!(parts.is_empty());
        let one = || image("p", "https://a/b".into(), None).unwrap();
        parts.image(one());
        parts.line("é");
        parts.image(one());
        parts.line("b");
        let places: Vec<_> = parts.images.iter().map(|image| image.at).collect();
        assert_eq!((&*parts.text, places), ("é\nb", vec![0, 2]));
    }
}
