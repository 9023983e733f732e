package Net::RealizeHit::JSON;

use v5.36;

use Cpanel::JSON::XS ();

our $VERSION = '0.1.0';

my $CHARACTERS = Cpanel::JSON::XS->new->allow_nonref->allow_bignum->convert_blessed->canonical;
my $READER     = Cpanel::JSON::XS->new->allow_nonref->allow_dupkeys;

# The JSON text of a value, as characters. It dies where the value cannot be written.
sub encode ($value) { return $CHARACTERS->encode($value) }

# The value of a JSON text. It dies where the text is not JSON.
sub decode ($text) { return $READER->decode($text) }

# The value of a JSON text in UTF-8; undef where it is not JSON.
sub decode_bytes ($bytes) {
    return scalar eval { Cpanel::JSON::XS->new->utf8->allow_nonref->allow_dupkeys->decode($bytes) };
}

# Whether a text is JSON.
sub is_json ($text) {
    return 1 if eval { $READER->decode($text); 1 };

    # JSON allows lone surrogate escapes, and the parser does not: try once more without escapes of that form.
    my $plain = $text =~ s/(\\\\)|\\u[[:xdigit:]]{4}/$1 \/\/ 'x'/egrx;
    return $plain ne $text && eval { $READER->decode($plain); 1 } ? 1 : 0;
}

sub is_boolean ($value) { return Cpanel::JSON::XS::is_bool($value) }

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::JSON - the settings of the JSON library, in one place

=head1 DESCRIPTION

Internal to L<Net::RealizeHit>.

=head1 FUNCTIONS

=head2 encode

The JSON text of a value, as characters.

=head2 decode

The value of a JSON text.

=head2 decode_bytes

The value of a JSON text in UTF-8; C<undef> where it is not JSON.

=head2 is_json

Whether a text is JSON.

=head2 is_boolean

Whether a value is true or false as the JSON library reads them.

=cut
