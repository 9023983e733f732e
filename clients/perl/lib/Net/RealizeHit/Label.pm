package Net::RealizeHit::Label;

use v5.36;

use Net::RealizeHit::Pattern ();

our $VERSION = '0.1.0';

# The channel and the offset of a label, and what is malformed in it. Fields of later versions are ignored.
sub fields_of ($label) {
    my ( $channel, $offset );
    for my $field ( split /&/, $label, -1 ) {
        my ( $key, $value ) = split /=/, $field, 2;
        return ( undef, undef, 'a field of the label is not key=value' ) if !defined $value;
        if ( $key eq 'c' ) {
            return ( undef, undef, 'the field c is not a channel' )
                if !Net::RealizeHit::Pattern::filters_of($value);
            $channel = $value;
        }
        elsif ( $key eq 'o' ) { $offset = $value }
    }
    return ( $channel, $offset, undef );
}

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::Label - what stands between the id and the payload of a message

=head1 DESCRIPTION

Internal to L<Net::RealizeHit::Client>.

=head1 FUNCTIONS

=head2 fields_of

The channel and the offset of a label, and what is malformed in it.

=cut
